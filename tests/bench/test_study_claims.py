"""Published claims: each names a study and a scheme that exist, and is judged by what its studies found."""

from dataclasses import asdict, replace

import numpy as np
import pytest

from lrdiff_bench.cli import main
from lrdiff_bench.stats.gain import judge_gain
from lrdiff_bench.stats.verdict import Verdict
from lrdiff_bench.study.claims.claim import Claim, load_claim, published_claims
from lrdiff_bench.study.claims.judge import judge
from lrdiff_bench.study.workloads.registry import make_workload
from lrdiff_core.errors import ConfigError

CLAIM = Claim(
    name="mine",
    title="t",
    source="s",
    says="it helps",
    scheme="head 10x",
    expects="HELPS",
    studies=("a", "b"),
    scale="c",
)
FINE = "\n".join(f'{key} = "x"' for key in ("title", "source", "says", "scheme", "scale"))


def test_every_published_claim_can_be_put_to_the_test():
    claims = published_claims()
    assert len(claims) >= 10
    for claim in claims:
        for study in claim.studies:
            workload = make_workload(study)
            tested = [one.name for one in workload.schemes[1:] if not one.reference]
            assert claim.scheme in tested, f"{claim.name}: {study} has {tested}"
        assert len(claim.scale.split()) > 20, f"{claim.name} has to say what its studies cannot show"


def document(name, gain, scheme="head 10x"):
    kept = {**asdict(gain), "verdict": str(gain.verdict)}
    return {"name": name, "schemes": [{"name": "single", "gain": None}, {"name": scheme, "gain": kept}]}


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(0).normal(0.0, 0.1, (16, 30))


def gain(noise, by):
    return judge_gain(noise, noise - by, smallest=0.1)


@pytest.mark.parametrize(
    ("verdict", "expects", "outcome"),
    [
        ("HELPS", "HELPS", "as claimed"),
        ("NO DIFFERENCE", "NO DIFFERENCE", "as claimed"),
        ("HELPS ON AVERAGE", "HELPS", "in part"),
        ("HELPS BUT DIVERGES", "HELPS", "in part"),
        ("NO DIFFERENCE", "HELPS", "not as claimed"),
        ("HURTS", "HELPS", "not as claimed"),
        ("HELPS", "NO DIFFERENCE", "not as claimed"),
        ("HELPS ON AVERAGE", "NO DIFFERENCE", "not as claimed"),
        ("INCONCLUSIVE", "HELPS", "open"),
        ("INCONCLUSIVE", "NO DIFFERENCE", "open"),
    ],
)
def test_the_outcome_is_the_verdict_beside_what_was_claimed(noise, verdict, expects, outcome):
    one = replace(gain(noise, 0.5), verdict=Verdict(verdict), p=0.0)
    found = judge([CLAIM.model_copy(update={"expects": expects})], {"a": document("a", one)})
    assert [(f.study, f.outcome) for f in found] == [("a", outcome), ("b", "not run")]


def test_two_claims_about_one_comparison_are_one_in_the_correction(noise):
    weak = replace(gain(noise, 0.5), p=0.03)
    assert weak.verdict == Verdict.HELPS
    other = CLAIM.model_copy(update={"name": "against", "expects": "NO DIFFERENCE"})
    documents = {"a": document("a", weak)}
    assert [f.outcome for f in judge([CLAIM, other], documents)] == [
        "as claimed",
        "not run",
        "not as claimed",
        "not run",
    ]
    documents["b"] = document("b", weak)  # two comparisons: 0.03 does not stand twice
    assert [f.outcome for f in judge([CLAIM, other], documents)] == ["open"] * 4


def test_a_scheme_that_a_study_does_not_have_is_an_error(noise):
    with pytest.raises(ConfigError, match='study a has no scheme "head 10x"'):
        judge([CLAIM], {"a": document("a", gain(noise, 0.5), scheme="head 20x")})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('studies = ["a"]\nexpects = "HELPS"\nschema = "x"', 'unknown key "schema"'),
        ('studies = []\nexpects = "HELPS"', "studies in own.toml"),
        ('studies = ["a"]\nexpects = "WINS"', "expects in own.toml"),
        ('studies = ["a"]', "expects in own.toml"),
        ("studies = [", "own.toml is not TOML"),
    ],
)
def test_a_file_that_is_no_claim_is_told_so(tmp_path, text, said):
    file = tmp_path / "own.toml"
    file.write_text(f"{FINE}\n{text}\n")
    with pytest.raises(ConfigError, match=said):
        load_claim(file)


def test_without_studies_every_claim_is_not_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["study", "claims"]) == 0
    screen = capsys.readouterr().out
    assert "no study of these claims is finished" in screen
    assert "lrdiff study characters-blocks" in screen
    assert "relearn-adam relearn-sgd" in screen
    assert main(["study", "claims", "lora-pluss"]) == 2
    assert "did you mean lora-plus?" in capsys.readouterr().err
    assert main(["study", "claims", "no.toml"]) == 2
    assert main(["study", "claims", "--out", "claims.txt"]) == 2
    assert not list(tmp_path.iterdir())
