"""What stands in torch's classes while a script runs, and that nothing of it stays."""

import copy
import gc
import io
import sys
import types
import weakref

import pytest
import torch

from lrdiff_bench.boost import check, report
from lrdiff_bench.boost.record import Checked
from lrdiff_bench.boost.replace import Boosting, when_imported
from lrdiff_bench.boost.report import report_of
from lrdiff_core.optim import AdamW, guard, kernel


@pytest.fixture
def boosting():
    made = Boosting()
    made.install()
    yield made
    made.remove()


def parameters(*shapes, dtype=torch.float32):
    made = [torch.nn.Parameter(torch.linspace(-1, 1, 16 * n, dtype=dtype)) for n in shapes or (1, 2)]
    for one in made:
        one.grad = torch.ones_like(one)
    return made


def test_nothing_stays():
    kinds = (torch.optim.Optimizer, torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
    torch.optim.AdamW(parameters())  # torch itself puts a wrapped copy of the step into the class
    before = [dict(vars(kind)) for kind in kinds]
    boosting = Boosting()
    boosting.install()
    optimizer = torch.optim.AdamW(parameters())
    optimizer.step()
    assert boosting.records[0].replaced
    boosting.remove()
    assert [dict(vars(kind)) for kind in kinds] == before
    optimizer.step()
    assert boosting.records[0].steps == 1


def test_an_optimizer_ends_when_the_script_lets_it_go(boosting):
    gc.disable()
    try:
        for _ in range(2):  # what torch imports at a first step keeps hold of frames
            optimizer = torch.optim.AdamW(parameters())
            torch.optim.lr_scheduler.StepLR(optimizer, 1)
            for _ in range(4):
                optimizer.step()
            alive, weight = weakref.ref(optimizer), weakref.ref(optimizer.param_groups[0]["params"][0])
            del optimizer
        assert (alive(), weight()) == (None, None)
    finally:
        gc.enable()


@pytest.mark.skipif(guard.load() is None, reason="no C++ compiler, or no headers of Python")
def test_the_compiled_check_before_a_step_is_ours_too(boosting):
    """It reads the dictionary of torch's optimizer, and sees what the script changes there."""
    params = parameters(1)
    optimizer = torch.optim.SGD(params, lr=1.0)
    for _ in range(4):
        optimizer.step()
    assert vars(optimizer)["_lrdiff_boost"].twin._quick is not None
    optimizer.param_groups[0]["lr"] = 2.0
    optimizer.step()
    torch.testing.assert_close(params[0].data, torch.linspace(-1, 1, 16) - 6)
    optimizer.param_groups[0]["params"] = swapped = parameters(1)
    optimizer.step()
    torch.testing.assert_close(swapped[0].data, torch.linspace(-1, 1, 16) - 2)
    torch.testing.assert_close(params[0].data, torch.linspace(-1, 1, 16) - 6)


def test_copies_and_files_hold_nothing_of_ours(boosting):
    class Whole(torch.optim.SGD):
        """Pickles all that it has, as some libraries do."""

        def __getstate__(self):
            return self.__dict__

    optimizer = Whole(parameters(), lr=0.1)
    optimizer.step()
    twin = copy.deepcopy(optimizer)
    assert not vars(twin)["_lrdiff_boost"]
    for param in twin.param_groups[0]["params"]:
        param.grad = torch.ones_like(param)  # which torch does not copy
    twin.step()
    plain = torch.optim.SGD(parameters(), lr=0.1, momentum=0.9)
    plain.step()
    file = io.BytesIO()
    torch.save(plain, file)
    assert b"lrdiff" not in file.getvalue()
    assert [record.name for record in boosting.records] == ["Whole", "Whole", "SGD"]
    assert all(record.replaced for record in boosting.records)


def test_a_copied_dictionary_steps_what_is_its_own(boosting):
    first = torch.optim.SGD(parameters(1), lr=0.5)
    first.step()
    second = object.__new__(torch.optim.SGD)
    second.__dict__.update(first.__dict__)
    second.param_groups = [{**first.param_groups[0], "params": parameters(2)}]
    second.step()
    assert torch.equal(first.param_groups[0]["params"][0], torch.linspace(-1, 1, 16) - 0.5)
    assert torch.equal(second.param_groups[0]["params"][0], torch.linspace(-1, 1, 32) - 0.5)


def test_an_optimizer_of_ours_is_left_alone(boosting):
    optimizer = AdamW(parameters(), foreach=True)  # whose own code calls torch's step
    optimizer.step()
    assert [(record.name, record.reason) for record in boosting.records] == [("AdamW", "lrdiff's own already")]


def test_hooks_run_once_where_a_class_has_a_step_of_its_own(boosting):
    class Own(torch.optim.Adam):
        def step(self, closure=None):
            return super().step(closure)

    seen = []
    optimizer = Own(parameters())
    optimizer.register_step_pre_hook(lambda one, args, kwargs: seen.append("before"))
    optimizer.register_step_post_hook(lambda one, args, kwargs: seen.append("after"))
    optimizer.step()
    assert seen == ["before", "after"]
    assert boosting.records[0].replaced


def test_a_profiler_sees_the_step_by_its_name(boosting):
    optimizer = torch.optim.AdamW(parameters())
    with torch.autograd.profiler.profile() as seen:
        optimizer.step()
    assert "Optimizer.step#AdamW.step" in {event.name for event in seen.function_events}


def test_an_error_in_the_closure_leaves_the_optimizer_whole(boosting):
    optimizer = torch.optim.AdamW(parameters())

    def fails():
        assert torch.is_grad_enabled()
        raise RuntimeError("no data")

    with torch.no_grad(), pytest.raises(RuntimeError, match="no data"):
        optimizer.step(fails)
    optimizer.step()
    assert boosting.records[0].steps == 1


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: torch.optim.SGD(parameters(), fused=False), "fused=False is asked for"),
        (lambda: torch.optim.SGD(parameters(dtype=torch.bfloat16), fused=True), "torch's fused SGD is wrong there"),
        (lambda: torch.optim.Adam(parameters(dtype=torch.float16), eps=1e-4), "half precision, where torch's loop"),
        (lambda: torch.optim.Adam(gaps()), "parameters that leave gaps in their memory"),
        (lambda: torch.optim.Adam(subclass()), "parameters of a tensor class of their own"),
        (lambda: torch.optim.SGD(overlapping()), "some of its parameters share memory"),
        (lambda: begun_in_double(), "its state was made or laid out in another way"),
    ],
)  # fmt: skip
def test_the_reason_is_told(make, reason, boosting):
    make().step()
    assert not boosting.records[0].replaced
    assert reason in " ".join(report_of(boosting.records, 0).lines())


def gaps():
    param = torch.zeros(4, 8).t()[::2].requires_grad_()
    param.grad = torch.ones_like(param)
    return [param]


class Marked(torch.Tensor):
    pass


def subclass():
    param = torch.zeros(16).as_subclass(Marked).requires_grad_()
    param.grad = torch.ones(16)
    return [param]


def overlapping():
    memory = torch.zeros(48)
    made = [memory[:32].requires_grad_(), memory[16:].requires_grad_()]
    for one in made:
        one.grad = torch.ones(32)
    return made


def begun_in_double():
    optimizer = torch.optim.Adam(parameters())
    for one in optimizer.param_groups[0]["params"]:
        moments = {name: torch.zeros_like(one) for name in ("exp_avg", "exp_avg_sq")}
        optimizer.state[one] = {"step": torch.tensor(1.0, dtype=torch.float64), **moments}
    return optimizer


def test_torchs_fused_kernel_is_named_where_ours_is_not_here(boosting):
    with kernel.switched_off():
        torch.optim.AdamW(parameters()).step()
    assert boosting.records[0].tensors == {"fused": 2}


def test_ends_of_tensors_may_differ_by_roundings():
    boosting = Boosting(check=20)
    boosting.install()
    try:
        generator = torch.Generator().manual_seed(0)
        params = [torch.nn.Parameter(torch.randn(n, generator=generator)) for n in (61, 15, 1, 33)]
        optimizer = torch.optim.AdamW(params, lr=0.1)
        for _ in range(20):
            for param in params:
                param.grad = torch.randn(param.shape, generator=generator)
            optimizer.step()
    finally:
        boosting.remove()
    checked = boosting.records[0].checked
    assert (checked.steps, checked.outside, checked.where) == (20, 0, None)
    assert checked.units <= 8


def test_on_arm_torchs_adam_may_differ_by_roundings_anywhere(monkeypatch):
    """Its second moment has the other product in a fused multiply-add; that of stochastic gradient descent has none."""
    alike = {}
    for machine in ("x86_64", "aarch64"):
        monkeypatch.setattr("platform.machine", lambda machine=machine: machine)
        alike[machine] = [check.rounds_alike(kind) for kind in (torch.optim.SGD, torch.optim.AdamW)]
    assert alike == {"x86_64": [True, True], "aarch64": [True, False]}
    one, two = torch.ones(2, 64)
    two[3] += torch.finfo(torch.float32).eps
    for anywhere in (False, True):
        checked = Checked(steps=1, anywhere=anywhere)
        check._compare(checked, "exp_avg_sq", one, two, one, None)
        assert (checked.other, checked.outside) == (1, not anywhere)
    assert "same but for 1, where torch rounds otherwise on ARM, which differ by 1 units" in report._checked(
        "Adam", checked
    )
    two[3] += 1e-3
    check._compare(checked, "exp_avg_sq", one, two, one, None)
    assert checked.outside == 1


def test_a_callback_waits_for_an_import(tmp_path, monkeypatch):
    (tmp_path / "waited_for.py").write_text("value = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    seen = []
    when_imported("waited_for", lambda: seen.append(sys.modules["waited_for"].value))
    import waited_for  # noqa: F401

    assert seen == [3]
    stop = when_imported("never_imported", lambda: seen.append(0))
    stop()
    assert not any(type(finder).__name__ == "_Watcher" for finder in sys.meta_path)
    assert isinstance(sys.modules.pop("waited_for"), types.ModuleType)


@pytest.mark.parametrize("direction", ["written with ours", "read with ours"])
def test_checkpoints_cross_over(direction):
    """Half of a training with ours and half with torch's fused step: the bits of one with the latter alone."""

    def steps(optimizer, params, first):
        for i in range(first, first + 3):
            for param in params:
                param.grad = torch.full_like(param, 0.1 * (i + 1))
            optimizer.step()

    def half(params, first, ours, state=None):
        boosting = Boosting()
        if ours:
            boosting.install()
        try:
            optimizer = torch.optim.AdamW(params, lr=0.1, fused=True)
            if state is not None:
                optimizer.load_state_dict(state)
            steps(optimizer, params, first)
        finally:
            boosting.remove()
        assert [record.replaced for record in boosting.records] == [True] * ours
        return optimizer.state_dict()

    whole, crossed = parameters(), parameters()
    half(whole, 3, False, half(whole, 0, False))
    written = direction == "written with ours"
    half(crossed, 3, not written, half(crossed, 0, written))
    for mine, other in zip(crossed, whole, strict=True):
        assert torch.equal(mine, other)


def test_adagrad_has_the_bits_of_torchs_fused_step():
    boosting = Boosting(check=3)
    boosting.install()
    try:
        optimizer = torch.optim.Adagrad(parameters(), lr=0.1, lr_decay=0.1, weight_decay=0.1)
        for _ in range(4):
            optimizer.step()
    finally:
        boosting.remove()
    (record,) = boosting.records
    assert record.replaced
    assert record.tensors == {"kernel" if kernel.load() is not None else "fused": 2}
    assert (record.checked.steps, record.checked.other, record.checked.outside) == (3, 0, 0)
