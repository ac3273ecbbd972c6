"""Training scripts of forty shapes: the same numbers as with torch's fused step, to the last bit."""

import pytest

from benchmarks.boost.ways import SCRIPTS, expected, fused, numbers, plain, with_ours

SLOW = ("compiled",)  # torch.compile alone takes seconds


def cases(scripts):
    marks = {name: [pytest.mark.slow] for name in SLOW}
    return [pytest.param(script, id=script.stem, marks=marks.get(script.stem, ())) for script in scripts]


def test_there_are_scripts():
    assert len(SCRIPTS) >= 30


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step:UserWarning")
@pytest.mark.parametrize("script", cases(SCRIPTS))
def test_a_script_prints_the_same_as_with_torchs_fused_step(script):
    replaced, optimizers, reason = expected(script)
    ours, report = with_ours(script)
    assert (len(report.replaced), len(report.records)) == (replaced, optimizers)
    assert reason in " ".join(report.lines())
    assert all(record.steps for record in report.replaced)
    assert ours == fused(script)
    assert len(numbers(ours)) >= 6
    # And nearly the same as without a word about implementations: its roundings are others.
    assert numbers(ours) == pytest.approx(numbers(plain(script)), rel=2e-4)


@pytest.mark.parametrize("script", cases(script for script in SCRIPTS if not expected(script)[0]))
def test_a_script_left_to_torch_prints_the_same_as_without_us(script):
    assert with_ours(script)[0] == plain(script)


@pytest.mark.parametrize(
    "name", ["plain", "onecycle", "groups", "sparse", "convolution", "copies", "half_fused", "double"]
)
def test_a_check_finds_every_bit_the_same(name):
    script = next(script for script in SCRIPTS if script.stem == name)
    text, report = with_ours(script, check=4)
    assert text == fused(script)
    assert report.failed is None
    for record in report.replaced:
        assert record.checked.steps == 4
        assert record.checked.numbers > 500
        assert record.checked.other == 0
    assert "every bit of" in " ".join(report.lines())
