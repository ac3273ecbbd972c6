"""Planted faults: a backend that does one thing wrong is caught on every kind of model, and the fault has its name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from export_models import Classifier, rows_of, seeded
from torch import nn

from lrdiff_export import BackendResult, Subject, check_subjects, subject_of_module
from lrdiff_export.examples import ZOO
from lrdiff_export.model.precision import _RoundedProducts
from lrdiff_export.runtimes import Predict, TorchBackend
from lrdiff_export.runtimes.onnx_runtime import OnnxRuntimeBackend


def subject(name: str) -> Subject:
    sample = ZOO[name]
    decide = (lambda out: out[:, 0] > 0.5) if name == "main, binary" else (lambda out: out.argmax(axis=1))
    return subject_of_module(sample.module(), tuple(sample.rows.values()), decide=decide)


KINDS = ["main, binary", "main, multi-class", "convolution, batch norm", "transformer block", "LSTM"]
# The dear ones say what the others say; each fault is planted in the main model, a convolution and an attention.
FEW = [*KINDS[:-1], pytest.param(KINDS[-1], marks=pytest.mark.long)]
SUBJECTS = {name: subject(name) for name in (*KINDS, "main, regression")}


def judged(name: str, plant: Any, kind: type, **attributes: object) -> BackendResult:
    """Plant a backend and return what is said of it; eager beside it agrees, or the model would be at fault."""
    plant("planted", **attributes)(kind)
    eager, result = check_subjects({"model": SUBJECTS[name]}, backends=["eager", "planted"])["model"].results
    assert (eager.status, eager.reason, eager.denormals) == ("agrees", None, "kept")
    return result


class Rounding(TorchBackend):
    """Promises float32 and multiplies less."""

    lower = "bfloat16"

    def prepare(self, model: nn.Module) -> Predict:
        predict = super().prepare(model)

        def rounded(*rows: np.ndarray) -> list[np.ndarray]:
            fast = torch.backends.mha.get_fastpath_enabled()
            torch.backends.mha.set_fastpath_enabled(False)
            try:
                with _RoundedProducts(self.lower, results=False), torch.backends.mkldnn.flags(enabled=False):
                    return predict(*rows)
            finally:
                torch.backends.mha.set_fastpath_enabled(fast)

        return rounded


class Half(TorchBackend):
    """Promises float32 and casts everything, as a runtime does that is built for speed."""

    cast = torch.bfloat16

    def prepare(self, model: nn.Module) -> Predict:
        inner, dtype = copy.deepcopy(model).to(self.cast), self.cast

        class Cast(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = inner

            def forward(self, *tensors: torch.Tensor) -> Any:
                result = self.inner(*(one.to(dtype) for one in tensors))
                return result.float() if isinstance(result, torch.Tensor) else [one.float() for one in result]

        return super().prepare(Cast())


@pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN:UserWarning")
@pytest.mark.parametrize("lower", ["bfloat16", "tfloat32", pytest.param("float16", marks=pytest.mark.long)])
@pytest.mark.parametrize("name", FEW)
def test_a_backend_that_drops_to_lower_precision_in_products_is_named(name: str, lower: str, plant: Any) -> None:
    result = judged(name, plant, Rounding, lower=lower)
    named = "bfloat16" if lower == "bfloat16" else "tfloat32 or float16"
    assert (result.status, result.fault, result.arithmetic) == ("differs", "lower precision", named)
    assert result.reason is not None
    assert result.reason.endswith(f"; that is {named} arithmetic")


@pytest.mark.parametrize("cast", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", FEW)
def test_a_backend_that_casts_everything_is_named(name: str, cast: torch.dtype, plant: Any) -> None:
    result = judged(name, plant, Half, cast=cast)
    assert (result.status, result.fault) == ("differs", "lower precision")
    assert result.arithmetic == str(cast).removeprefix("torch.")


Outputs = list[np.ndarray]


class Spoiled(TorchBackend):
    """Right but for what ``spoil`` does to rows and outputs."""

    def prepare(self, model: nn.Module) -> Predict:
        predict = super().prepare(model)
        self.seen: dict[Any, Any] = {}
        return lambda *rows: self.spoil(predict, rows)

    def spoil(self, predict: Predict, rows: tuple[np.ndarray, ...]) -> Outputs:
        raise NotImplementedError


class LagsBehind(Spoiled):
    """Gives the answer to the batch before, where that had the same shape."""

    def spoil(self, predict: Predict, rows: tuple[np.ndarray, ...]) -> Outputs:
        outputs, last = predict(*rows), self.seen.get("last")
        self.seen["last"] = outputs
        return last if last is not None and last[0].shape == outputs[0].shape else outputs


class RemembersShapes(Spoiled):
    """Takes rows of a shape that it has seen for the same rows; single rows it computes."""

    def spoil(self, predict: Predict, rows: tuple[np.ndarray, ...]) -> Outputs:
        shape = rows[0].shape
        if shape not in self.seen or len(rows[0]) == 1:
            self.seen[shape] = predict(*rows)
        return self.seen[shape]


class Shuffles(Spoiled):
    """Gives the rows of a batch in another order."""

    def spoil(self, predict: Predict, rows: tuple[np.ndarray, ...]) -> Outputs:
        return [np.roll(one, 1, axis=0) for one in predict(*rows)]


class Clips(Spoiled):
    """Takes inputs for at most 50."""

    def spoil(self, predict: Predict, rows: tuple[np.ndarray, ...]) -> Outputs:
        return predict(*(np.clip(one, -50, 50) for one in rows))


class Overflows(Spoiled):
    """Has room for 4096 rows."""

    def spoil(self, predict: Predict, rows: tuple[np.ndarray, ...]) -> Outputs:
        outputs = predict(*rows)
        for one in outputs:
            one[4096:] = 0
        return outputs


class RaisesBeyond(Spoiled):
    """Has room for 4096 rows, and says so."""

    def spoil(self, predict: Predict, rows: tuple[np.ndarray, ...]) -> Outputs:
        if len(rows[0]) > 4096:
            raise ValueError("too many rows")
        return predict(*rows)


class MovesLarge(Spoiled):
    """Takes large batches elsewhere."""

    def spoil(self, predict: Predict, rows: tuple[np.ndarray, ...]) -> Outputs:
        outputs = predict(*rows)
        if len(rows[0]) > 4096:
            self.ran_on = "meta"
        return outputs


class OneColumn(Spoiled):
    """A ten-thousandth off in the last class alone."""

    def spoil(self, predict: Predict, rows: tuple[np.ndarray, ...]) -> Outputs:
        outputs = predict(*rows)
        outputs[0][..., -1] *= 1.0001
        return outputs


class HalfSums(TorchBackend):
    """Sums up products in float16."""

    def prepare(self, model: nn.Module) -> Predict:
        inner = copy.deepcopy(model)
        for part in inner.modules():
            if isinstance(part, nn.Linear):
                part.forward = _half_sums(part)  # type: ignore[method-assign]
        return super().prepare(inner)


def _half_sums(layer: nn.Linear) -> Callable[[torch.Tensor], torch.Tensor]:
    weight, bias = layer.weight.detach(), layer.bias.detach()

    def forward(rows: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(*rows.shape[:-1], len(weight), dtype=torch.float16)
        for k in range(rows.shape[-1]):
            total += (rows[..., k : k + 1] * weight[:, k]).half()
        return total.float() + bias

    return forward


@pytest.mark.parametrize(
    ("kind", "status", "reason"),
    [
        (LagsBehind, "differs", "output0: error "),  # of rows alone, too
        (RemembersShapes, "differs", "in reverse order: output0: error "),
        (Shuffles, "differs", "output0: error "),
        (Clips, "differs", "rows up to 10 000 times as large: output0: error "),
        (Overflows, "differs", "in a batch of 4099: output0: error "),
        (RaisesBeyond, "refused", "in a batch of 4099: ValueError: too many rows"),
        (MovesLarge, "refused", "asked for cpu, ran on meta"),
        (OneColumn, "differs", "output0: error "),
        (HalfSums, "differs", "output0: error "),
    ],
)
@pytest.mark.parametrize("name", ["main, regression", "main, multi-class"])
def test_a_backend_that_is_right_only_for_the_rows_it_was_given_is_caught(
    name: str, kind: type, status: str, reason: str, plant: Any
) -> None:
    result = judged(name, plant, kind)
    assert result.status == status
    assert str(result.reason).startswith(reason), result.reason


def test_a_backend_that_takes_nan_for_zero_is_caught_where_rows_have_one(plant: Any) -> None:
    class Fills(Spoiled):
        def spoil(self, predict: Predict, rows: tuple[np.ndarray, ...]) -> Outputs:
            return predict(*map(np.nan_to_num, rows))

    plant("fills")(Fills)
    rows = rows_of(20, 10)
    rows[7, 3] = np.nan
    eager, result = check_subjects(
        {"model": subject_of_module(seeded(Classifier), rows)}, backends=["eager", "fills"]
    )["model"].results  # fmt: skip
    assert (eager.status, result.status) == ("agrees", "differs")
    assert "NaN or infinity in other places than in float64" in str(result.reason)


def test_only_rows_that_the_module_itself_can_answer_are_run_besides() -> None:
    class Centred(nn.Module):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return rows - rows.mean(dim=0)

    class Careful(nn.Module):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            if rows.abs().max() > 100:
                raise ValueError("out of range")
            return rows * 2

    known = {
        "in reverse order": (Centred(), Careful()),
        "rows up to 10 000 times as large": (Centred(),),
        "in a batch of 4099": (Careful(),),
    }
    for module in (Centred(), Careful()):
        subjects = {"model": subject_of_module(module, rows_of(20, 10))}
        (result,) = check_subjects(subjects, backends=["eager"])["model"].results
        assert (result.status, result.reason) == ("agrees", None)
        expected = {name for name, several in known.items() if type(module) in map(type, several)}
        assert set(result.other_errors) == expected


class Flushing(TorchBackend):
    """Switches denormal numbers off in the processor, as fast-math libraries do when they are loaded."""

    def prepare(self, model: nn.Module) -> Predict:
        predict = super().prepare(model)

        def flushed(*rows: np.ndarray) -> list[np.ndarray]:
            if not torch.set_flush_denormal(True):
                pytest.skip("this processor cannot flush denormal numbers")
            try:
                return predict(*rows)
            finally:
                torch.set_flush_denormal(False)

        return flushed


@pytest.mark.parametrize("name", FEW)
def test_a_backend_that_flushes_denormals_is_named(name: str, plant: Any) -> None:
    result = judged(name, plant, Flushing)
    assert (result.status, result.fault, result.denormals) == ("differs", "denormals flushed", "flushed")
    assert result.reason == "denormal numbers are flushed to zero"


def test_a_backend_that_may_flush_denormals_agrees_and_it_is_told(plant: Any) -> None:
    result = judged("main, binary", plant, Flushing, keeps_denormals=False)
    assert (result.status, result.fault, result.denormals) == ("agrees", None, "flushed")


class Reordering(TorchBackend):
    """Gives the classes in another order; of two, the other one's probability."""

    def prepare(self, model: nn.Module) -> Predict:
        predict = super().prepare(model)

        def other(output: np.ndarray) -> np.ndarray:
            return 1 - output if output.shape[1] == 1 else np.roll(output, 1, axis=1)

        return lambda *rows: [other(output) for output in predict(*rows)]


@pytest.mark.parametrize("name", [name for name in KINDS if name != "LSTM"])
def test_a_backend_that_reorders_classes_is_named_and_no_margin_explains_its_flips(name: str, plant: Any) -> None:
    result = judged(name, plant, Reordering)
    assert (result.status, result.fault, result.arithmetic) == ("differs", "classes reordered", None)
    width = SUBJECTS[name].judge.answers[0].shape[1]
    order = "it gives the probability of the other class"
    if width > 1:
        order = f"its classes are in the order {', '.join(map(str, [width - 1, *range(width - 1)]))}"
    assert result.reason is not None
    assert result.reason.endswith("; " + order)
    assert result.decisions_flipped
    assert result.flips_unexplained == result.decisions_flipped


class Staying(TorchBackend):
    """Asked for CUDA, it runs where the rows are."""

    device = "cuda"

    def place(self, thing: Any) -> Any:
        return thing


class SessionOnTheCpu(OnnxRuntimeBackend):
    """Asked for CUDA, its session took the CPU, as ONNX Runtime's do by themselves."""

    device = "cuda"


class Silent(TorchBackend):
    """Does not say where it ran."""

    def facts(self) -> dict[str, object]:
        return {"runtime": "mine 1.0"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "reason", "names"),
    [
        (Staying, "asked for cuda, ran on cpu", KINDS),
        (SessionOnTheCpu, "asked for cuda, ran on cpu", ["main, binary", "convolution, batch norm"]),
        (Silent, "asked for cpu, does not say where it ran", KINDS),
    ],
)
def test_a_backend_that_silently_falls_back_to_another_device_is_named(
    kind: type, reason: str, names: list[str], plant: Any
) -> None:
    plant("elsewhere")(kind)
    reports = check_subjects({name: SUBJECTS[name] for name in names}, backends=["elsewhere"])
    for report in reports.values():
        (result,) = report.results
        assert (result.status, result.reason, result.fault) == ("refused", reason, "ran elsewhere")
        assert not report.passed


def test_a_backend_that_promises_bfloat16_is_not_measured_by_float32_nor_the_other_way(plant: Any) -> None:
    result = judged("main, multi-class", plant, Half, dtype="bfloat16")
    assert (result.status, result.dtype, result.arithmetic) == ("agrees", "bfloat16", "bfloat16")
    assert result.max_error is not None
    assert result.max_error < 8


def test_one_that_chooses_is_judged_by_what_it_says_and_caught_if_that_is_not_so(plant: Any) -> None:
    class Says(Half):
        said = "bfloat16"

        def facts(self) -> dict[str, object]:
            return {**super().facts(), "arithmetic": self.said}

    honest = judged("main, binary", plant, Says, dtype=None)
    assert (honest.status, honest.dtype, honest.counts) == ("agrees", "bfloat16", True)


@pytest.mark.parametrize(
    ("said", "status", "fault"), [("float32", "differs", "lower precision"), ("float17", "refused", None)]
)
def test_what_it_says_must_be_true(said: str, status: str, fault: str | None, plant: Any) -> None:
    class Says(Half):
        def facts(self) -> dict[str, object]:
            return {**super().facts(), "arithmetic": said}

    result = judged("main, binary", plant, Says, dtype=None)
    assert (result.status, result.fault) == (status, fault)


def wrong_by(change: Callable[[np.ndarray], np.ndarray]) -> type:
    class Wrong(TorchBackend):
        def prepare(self, model: nn.Module) -> Predict:
            predict = super().prepare(model)
            return lambda *rows: [change(output) for output in predict(*rows)]

    return Wrong


def test_an_error_that_no_arithmetic_makes_is_not_given_a_name(plant: Any) -> None:
    noise = np.random.default_rng(0).uniform(-0.2, 0.2, 4).astype(np.float32)
    result = judged("main, multi-class", plant, wrong_by(lambda out: out + noise * out[:, :1]))
    assert (result.status, result.fault, result.arithmetic) == ("differs", None, None)
    assert "looks like" not in str(result.reason)


@pytest.mark.parametrize("dim", [None, 0, 1])
@pytest.mark.parametrize("name", ["main, binary", "main, multi-class", "transformer block", "convolution, batch norm"])
def test_weights_in_eight_bits_are_not_taken_for_an_arithmetic(name: str, dim: int | None, plant: Any) -> None:
    class Quantised(TorchBackend):
        def prepare(self, model: nn.Module) -> Predict:
            inner = copy.deepcopy(model)
            with torch.no_grad():
                for one in inner.parameters():
                    if one.dim() > 1:
                        largest = one.abs().max() if dim is None else one.abs().transpose(0, dim).flatten(1).amax(1)
                        shape = [-1 if i == dim else 1 for i in range(one.dim())]
                        step = (largest / 127).reshape(shape if dim is not None else ())
                        one.copy_(torch.clamp(torch.round(one / step), -127, 127) * step)
            return super().prepare(inner)

    result = judged(name, plant, Quantised)
    assert (result.status, result.fault, result.arithmetic) == ("differs", "lower precision", "8-bit weights")
    assert str(result.reason).endswith("; its error is that of 8-bit weights")


def test_where_it_is_wrong_is_told(plant: Any) -> None:
    def spoilt(out: np.ndarray) -> np.ndarray:
        made = out.copy()
        made[2:5, 1] += np.float32(0.2)
        return made

    result = judged("main, multi-class", plant, wrong_by(spoilt))
    assert (
        str(result.reason)
        .split("; ")[1]
        .startswith("3 of 400 numbers, in rows 2, 3, 4 (3 of 100) and column 1 (1 of 4), most at [")
    )
    assert result.where is not None
    assert (result.where["output"], result.where["wrong"], result.where["of"]) == ("output0", 3, 400)
    assert [axis["places"] for axis in result.where["axes"]] == [(2, 3, 4), (1,)]
    assert result.where["given"] == pytest.approx(result.where["right"] + 0.2, abs=1e-6)


def test_labels_that_bfloat16_loses_are_lost_as_often_as_their_rows_are_repeated() -> None:
    class Near(nn.Module):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return (rows.sum(dim=1) > 4.0).long()

    rows = (4.0 + np.linspace(-0.05, 0.05, 20, dtype=np.float32))[:, None] * np.array([[0.5, 0.25, 0.25]], np.float32)
    subject = subject_of_module(Near(), rows.astype(np.float32))
    (result,) = check_subjects({"model": subject}, backends=["eager-bf16"])["model"].results
    assert "in a batch of 4099" in result.other_errors
    assert (result.status, result.reason) == ("agrees", None)


def test_a_flip_within_the_budget_is_explained_and_one_beyond_is_not(plant: Any) -> None:
    module, rows = seeded(Classifier), rows_of(50, 10)
    with torch.no_grad():
        answers = module.double()(torch.tensor(rows).double()).numpy()[:, 0]
    module = module.float()
    boundary = float(np.sort(answers)[25])  # a row of its own lies on the boundary: its decision is a toss

    def decide(out: np.ndarray) -> np.ndarray:
        return out[:, 0].astype(np.float64) > boundary

    def flipped(out: np.ndarray, by: float) -> np.ndarray:
        return (out + np.where(np.abs(out - boundary) < 1e-6, by, 0.0)).astype(np.float32)

    for name, by in (("near", 1e-7), ("far", 1e-3)):
        plant(name)(wrong_by(lambda out, by=by: flipped(out, by)))
    model = subject_of_module(module, rows, decide=decide)
    near, far = check_subjects({"model": model}, backends=["near", "far"])["model"].results
    assert (near.status, near.decisions_flipped, near.flips_unexplained) == ("agrees", 1, 0)
    assert (far.status, far.decisions_flipped, far.flips_unexplained) == ("differs", 1, 1)


def test_a_run_that_changes_from_time_to_time_is_told_and_both_runs_are_judged(plant: Any) -> None:
    class Changing(TorchBackend):
        by = np.float32(1e-7)

        def prepare(self, model: nn.Module) -> Predict:
            predict, runs = super().prepare(model), [0]

            def changed(*rows: np.ndarray) -> list[np.ndarray]:
                runs[0] += 1
                return [output + self.by * (runs[0] == 2) for output in predict(*rows)]

            return changed

    little = judged("main, binary", plant, Changing)
    assert (little.status, little.bitwise_repeatable) == ("agrees", False)
    plant("much", by=np.float32(1e-3))(Changing)
    (much,) = check_subjects({"model": SUBJECTS["main, binary"]}, backends=["much"])["model"].results
    assert (much.status, much.bitwise_repeatable) == ("differs", False)


def test_rows_that_come_out_wrong_alone_are_caught(plant: Any) -> None:
    class Lonely(TorchBackend):
        def prepare(self, model: nn.Module) -> Predict:
            predict = super().prepare(model)
            return lambda rows: [output * (1 if len(rows) > 1 else 1.001) for output in predict(rows)]

    result = judged("main, binary", plant, Lonely)
    assert (result.status, result.batch_invariant, result.bitwise_repeatable) == ("differs", False, True)
    assert result.single_row_error == result.max_error
