"""Numbers in fewer bytes: the kernel beside plain operations bit for bit, float32 and float64 as oracles of both."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from typing import Any

import pytest
import torch
from optim_pairs import ON_ARM, SHAPES, feed, make, params_of, same_bits

from lrdiff_core.errors import OptimizerError
from lrdiff_core.optim import (
    SGD,
    Adam,
    AdamW,
    MuonAdamW,
    clip_grad_norms_,
    clipped_step,
    forms as forms_module,
    guard,
    kernel,
    load_state_only,
)
from lrdiff_core.optim.formats.codes import BLOCK, NEAREST, decode, encode, fma, join, round_to_bfloat16, split
from lrdiff_core.optim.formats.state import FORMATS, read
from lrdiff_core.optim.prepared import Prepared
from lrdiff_core.rates import Rule, param_groups

needs_kernel = pytest.mark.skipif(kernel.load() is None, reason="no C compiler here")
WIDE = (*SHAPES, (BLOCK,), (3, 100), (2, BLOCK + 1))  # whole blocks, and a last one that is shorter
DTYPES = [torch.float32, torch.bfloat16]
IDS = ["float32", "bfloat16"]
KINDS: list[tuple[type[Adam], dict[str, Any]]] = [
    (AdamW, {"weight_decay": 0.1}),
    (Adam, {"weight_decay": 0.1, "maximize": True}),
    (Adam, {"betas": (0.4, 0.7), "eps": 1e-3}),
]


def optimizer_in(
    chosen: str | None, dtype: torch.dtype = torch.float32, kind: type[Adam] = AdamW, **options: Any
) -> Adam:
    """Three groups with rates of their own, over tensors of all shapes."""
    params = make(WIDE, dtype)
    groups = [{"params": params[i::3], "lr": 0.01 * (i + 1)} for i in range(3)]
    return kind(groups, **options, **({} if chosen is None else {"state_format": chosen}))


def stepped(optimizer: Adam, steps: int = 4, seed: int = 0) -> Adam:
    for i in range(steps):
        feed(params_of(optimizer), seed=seed + i)
        optimizer.step()
    return optimizer


@needs_kernel
@pytest.mark.parametrize(("kind", "options"), KINDS, ids=["AdamW", "Adam up", "Adam"])
@pytest.mark.parametrize("dtype", DTYPES, ids=IDS)
@pytest.mark.parametrize("chosen", FORMATS)
def test_the_kernel_has_the_bits_of_plain_operations(
    chosen: str, dtype: torch.dtype, kind: type[Adam], options: dict[str, Any]
) -> None:
    ours = stepped(optimizer_in(chosen, dtype, kind, **options), 8)
    with kernel.switched_off():
        twin = stepped(optimizer_in(chosen, dtype, kind, **options), 8)
    assert ours.forms() == {"kernel": len(WIDE)}
    assert twin.forms() == {"plain": len(WIDE)}
    same_bits(ours, twin)


@pytest.mark.parametrize("compiled", [True, False], ids=["kernel", "plain"])
def test_float32_state_of_bfloat16_parameters_loses_nothing(compiled: bool) -> None:
    """Beside torch's float32 AdamW on gradients of bfloat16: its weights, in two halves, rounded to the nearest."""
    if compiled and kernel.load() is None:
        pytest.skip("no C compiler here")
    shapes = [(64,), (2, BLOCK), (3, 80)]  # torch steps what is left of a vector with other roundings
    start = [p.detach().bfloat16().float().requires_grad_() for p in make(shapes)]
    # On ARM torch's has other last bits.
    theirs = AdamW(start, state_format="float32") if ON_ARM else torch.optim.AdamW(start, fused=True)
    with torch.no_grad() if compiled else kernel.switched_off():
        ours = AdamW(make(shapes, torch.bfloat16), state_format="float32")
        for i in range(6):
            feed(params_of(ours), seed=i)
            for mine, other in zip(params_of(ours), params_of(theirs), strict=True):
                other.grad = mine.grad.float()
            ours.step(), theirs.step()
    for mine, other in zip(params_of(ours), params_of(theirs), strict=True):
        assert torch.equal(join(mine.detach(), ours.state[mine]["param_low"]), other)
        assert torch.equal(ours.state[mine]["exp_avg_sq"], theirs.state[other]["exp_avg_sq"])
        spacing = torch.finfo(torch.bfloat16).eps * other.abs()
        assert bool(((mine.float() - other).abs() <= spacing / 2).all())


@pytest.mark.parametrize("chosen", FORMATS)
def test_stays_beside_float32(chosen: str) -> None:
    """Twenty steps; parameters are off by no more of how far they went than their moments' format rounds."""
    ours, exact = stepped(optimizer_in(chosen), 20), stepped(optimizer_in(None), 20)
    spacing = {"float32": 0.0, "bfloat16": 2**-7, "8-bit": 2**-3}[chosen]
    for mine, other, start in zip(params_of(ours), params_of(exact), params_of(optimizer_in(None)), strict=True):
        if not mine.numel():
            continue
        close = spacing * float(ours.state[mine]["step"]) ** 0.5  # roundings add up like the steps of a walk
        v, expected = read(ours.state[mine], "exp_avg_sq"), exact.state[other]["exp_avg_sq"].flatten()
        assert float(((v - expected).abs() / expected).max()) <= close
        went = float((other - start).detach().abs().max())
        assert float((mine - other).detach().abs().max()) <= spacing * went


@pytest.mark.parametrize("chosen", ["bfloat16", "8-bit"])
def test_a_slow_mean_does_not_stand_still(chosen: str) -> None:
    """The second moment of a constant gradient; rounded to the nearest it would stop where a step is half a spacing."""
    param = torch.nn.Parameter(torch.zeros(4096))
    optimizer = AdamW([param], lr=0.0, state_format=chosen)
    param.grad = torch.linspace(0.5, 1.0, 4096)
    for _ in range(400):
        optimizer.step()
    mean = (read(optimizer.state[param], "exp_avg_sq") / param.grad**2).mean()
    assert float(mean) == pytest.approx(1 - 0.999**400, rel=0.01)


def test_updates_of_bfloat16_parameters_are_not_lost() -> None:
    """Each is a hundredth of the spacing at one."""
    for chosen in FORMATS:
        param = torch.nn.Parameter(torch.ones(4096, dtype=torch.bfloat16))
        optimizer = Adam([param], lr=8e-5, state_format=chosen)
        param.grad = torch.ones_like(param)
        for _ in range(100):
            optimizer.step()
        assert float(param.detach().float().mean()) == pytest.approx(1 - 100 * 8e-5, abs=5e-4), chosen


def test_chance_rounds_up_as_often_as_it_should() -> None:
    x = torch.cat([torch.randn(500, generator=torch.Generator().manual_seed(0)) * 10.0**k for k in (-6, -3, 0)])
    chances = torch.arange(8, 1 << 16, 1 << 9)
    for signed, values in ((True, x), (False, x**2)):
        # What the smallest are off is bounded by the block's largest.
        spacing = torch.maximum(values.abs() / 8, values.abs().max() * (2.0**-15 if signed else 2.0**-28))
        found = [decode(*encode(values, int(c), signed=signed), signed=signed).double() for c in chances]
        if signed:  # others are not rounded to zero
            assert float(((sum(found) / len(found) - values).abs() / spacing).max()) < 0.02
        nearest = decode(*encode(values, NEAREST, signed=signed), signed=signed)
        assert float(((nearest - values).abs() / spacing).max()) <= 0.5 + 1e-6
    mean = sum(round_to_bfloat16(x, int(c)).double() for c in chances) / len(chances)
    assert float(((mean - x).abs() / x.abs()).max()) < 2**-7 * 0.02
    assert torch.equal(round_to_bfloat16(x, NEAREST - 1), x.bfloat16())


def test_codes_keep_what_a_step_divides_by() -> None:
    tiny = torch.tensor([1.0, 1e-30, 0.0, 1e-38])
    codes, exponents = encode(tiny, 0, signed=False)
    found = decode(codes, exponents, signed=False)
    assert found[1] > 0
    assert found[2] == 0
    assert found[3] > 0
    for fixed in (codes, torch.arange(256, dtype=torch.uint8)):  # every code is its own
        whole = decode(fixed, torch.tensor([120], dtype=torch.uint8), signed=False)
        again, exponent = encode(whole, NEAREST, signed=False)
        assert torch.equal(decode(again, exponent, signed=False), whole)


def test_the_halves_of_a_float32_are_all_of_it() -> None:
    x = torch.randn(4096, generator=torch.Generator().manual_seed(1))
    x[:6] = torch.tensor([0.0, -0.0, float("inf"), -float("inf"), 3.4e38, 1e-45])
    half, low = split(x)
    assert torch.equal(join(half, low), x)
    assert split(torch.tensor([float("nan")]))[0].isnan().all()


def test_a_product_and_a_sum_are_rounded_once() -> None:
    random = torch.Generator().manual_seed(2)
    a, b = (torch.randn(2000, generator=random) for _ in range(2))
    c = -(a * b) * (1 + torch.randn(2000, generator=random) * 2.0**-20)
    exact = [float(x) * float(y) + float(z) for x, y, z in zip(a.tolist(), b.tolist(), c.tolist(), strict=True)]
    assert torch.equal(fma(a, b, c), torch.tensor(exact, dtype=torch.float64).float())  # exact: the terms nearly cancel
    tie = torch.tensor([1.0 + 2**-12]), torch.tensor([1.0 + 2**-12]), torch.tensor([2.0**-60])
    assert float(fma(*tie)) == 1.0 + 2**-11 + 2**-23  # half a spacing and a little more: rounded twice it goes down


@needs_kernel
@pytest.mark.parametrize("dtype", DTYPES, ids=IDS)
@pytest.mark.parametrize("chosen", FORMATS)
def test_threads_and_groups_change_no_bit(chosen: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = stepped(AdamW(make(WIDE, dtype), lr=0.01, state_format=chosen))
    monkeypatch.setattr(forms_module, "GRAIN", 64)
    monkeypatch.setattr(forms_module, "PIECE", 16)  # rounded up to a block
    torch.set_num_threads(3)
    params = make(WIDE, dtype)
    groups = [{"params": [p], "lr": 0.01} for p in params]
    same_bits(stepped(AdamW(groups, state_format=chosen)), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=IDS)
@pytest.mark.parametrize("chosen", FORMATS)
def test_goes_on_from_a_file_a_copy_and_a_pickle(chosen: str, dtype: torch.dtype) -> None:
    first = stepped(optimizer_in(chosen, dtype))
    assert {group["state_format"] for group in first.state_dict()["param_groups"]} == {chosen}
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    loaded, copied, unpickled = optimizer_in(chosen, dtype), copy.deepcopy(first), pickle.loads(pickle.dumps(first))
    for mine, other in zip(params_of(loaded), params_of(first), strict=True):
        mine.data.copy_(other)
    loaded.load_state_dict(torch.load(file))
    stepped(first, seed=50)
    for one in (loaded, copied, unpickled):
        same_bits(stepped(one, seed=50), first)
        assert one.forms() == first.forms()
    copied.add_param_group({"params": [torch.nn.Parameter(torch.zeros(3))]})
    assert copied.param_groups[-1]["state_format"] == chosen


def test_loads_by_name_into_another_grouping() -> None:
    net = torch.nn.ModuleDict({"body": torch.nn.Linear(20, 30), "head": torch.nn.Linear(30, 2)})
    first = stepped(AdamW(net.named_parameters(), lr=0.01, state_format="8-bit"))
    plan = param_groups(net, lr=0.01, rules=[Rule("head", lr=0.1)])
    second = AdamW(plan.groups(AdamW, state_format="8-bit"), state_format="8-bit")
    report = load_state_only(second, first.state_dict())
    assert len(report.taken) == 4
    for param in net.parameters():
        for name, value in first.state[param].items():
            assert torch.equal(second.state[param][name], value), name


@pytest.mark.parametrize("dtype", DTYPES, ids=IDS)
@pytest.mark.parametrize("to", [None, *FORMATS])
@pytest.mark.parametrize("of", [None, *FORMATS])
def test_state_is_converted_when_it_is_loaded(of: str | None, to: str | None, dtype: torch.dtype) -> None:
    """Also of channels last into rows, whose blocks are others."""

    def one(chosen: str | None, memory: torch.memory_format) -> Adam:
        param = torch.nn.Parameter(make([(6, 10, 5, 3)], dtype)[0].detach().to(memory_format=memory))
        return AdamW([param], lr=0.01, **({} if chosen is None else {"state_format": chosen}))

    first = stepped(one(of, torch.channels_last))
    second = one(to, torch.contiguous_format)
    second.load_state_dict(first.state_dict())
    assert [group.get("state_format") for group in second.param_groups] == [to]
    (a,), (b,) = first.state.values(), second.state.values()
    for name, rounded in (("exp_avg", 2**-4), ("exp_avg_sq", 2**-4)):
        x, y = (_as_rows(p, s, name) for p, s in zip((params_of(first)[0], params_of(second)[0]), (a, b), strict=True))
        least = float(x.abs().max()) * 2.0**-17
        assert float(((x - y).abs() / x.abs().clamp(min=least)).max()) <= rounded * ("8-bit" in (of, to)) + 2**-8
    assert float(b["step"]) == 4
    assert sum(stepped(second, 2).forms().values()) == 1
    assert to is None or "torch" not in second.forms()  # where nobody asked, torch steps moments in another order


def _as_rows(param: torch.Tensor, state: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    if name in state:
        return state[name].float().contiguous()
    laid_out = torch.empty_like(param, dtype=torch.float32, requires_grad=False)
    laid_out.as_strided((laid_out.numel(),), (1,)).copy_(read(state, name))
    return laid_out.contiguous()


@pytest.mark.parametrize("chosen", FORMATS)
def test_takes_the_state_of_torchs_own(chosen: str) -> None:
    theirs = torch.optim.AdamW(make(WIDE), lr=0.01)
    for i in range(3):
        feed(params_of(theirs), seed=i)
        theirs.step()
    ours = AdamW(make(WIDE), lr=0.01, state_format=chosen)
    ours.load_state_dict(theirs.state_dict())
    assert ours.param_groups[0]["state_format"] == chosen
    back = AdamW(make(WIDE), lr=0.01)
    back.load_state_dict(ours.state_dict())
    assert "state_format" not in back.param_groups[0]
    for mine, other in zip(params_of(back), params_of(theirs), strict=True):
        if mine.numel():
            a, b = back.state[mine]["exp_avg"], theirs.state[other]["exp_avg"]
            assert float((a - b).abs().max()) <= 2**-4 * float(b.abs().max())
    if chosen == "8-bit":  # torch's own class does not step codes as if they were moments
        wrong = torch.optim.AdamW(make(WIDE), lr=0.01)
        wrong.load_state_dict(ours.state_dict())
        feed(params_of(wrong), seed=9)
        with pytest.raises(KeyError, match="exp_avg"):
            wrong.step()


def test_groups_may_differ() -> None:
    params = make(WIDE)
    groups = [
        {"params": params[:3]},
        {"params": params[3:6], "state_format": None},
        {"params": params[6:], "state_format": "bfloat16"},
    ]
    optimizer = stepped(AdamW(groups, lr=0.01, state_format="8-bit"))
    assert [set(optimizer.state[param]) for param in (params[0], params[3], params[6])] == [
        {"step", "exp_avg_codes", "exp_avg_exponents", "exp_avg_sq_codes", "exp_avg_sq_exponents"},
        {"step", "exp_avg", "exp_avg_sq"},
        {"step", "exp_avg", "exp_avg_sq"},
    ]
    assert optimizer.state[params[6]]["exp_avg"].dtype is torch.bfloat16


@pytest.mark.skipif(guard.load() is None, reason=f"no compiled check: {guard.missing_reason()}")
@pytest.mark.parametrize("dtype", DTYPES, ids=IDS)
@pytest.mark.parametrize("chosen", FORMATS)
def test_the_compiled_check_steps_them(chosen: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = stepped(optimizer_in(chosen, dtype))
    with guard.switched_off():
        expected = stepped(optimizer_in(chosen, dtype))
        stepped(expected, 3, seed=20)
    monkeypatch.setattr(Prepared, "gather", lambda *_: pytest.fail("a closer look was taken"))
    same_bits(stepped(ours, 3, seed=20), expected)


@needs_kernel
def test_other_memory_is_noticed() -> None:
    optimizer = stepped(optimizer_in("8-bit"))
    param = params_of(optimizer)[0]
    moved = param.detach().clone()
    param.data = moved
    stepped(optimizer, 1, seed=30)
    assert param.data_ptr() == moved.data_ptr()
    assert not torch.equal(param.detach(), make(WIDE)[0])


@pytest.mark.parametrize("dtype", DTYPES, ids=IDS)
@pytest.mark.parametrize("chosen", FORMATS)
def test_clipping_in_one_pass_is_the_three_calls(chosen: str, dtype: torch.dtype) -> None:
    one, three = optimizer_in(chosen, dtype), optimizer_in(chosen, dtype)
    for i in range(4):
        for optimizer in (one, three):
            feed(params_of(optimizer), seed=i)
        norms = clipped_step(one, 0.5)
        expected = clip_grad_norms_(three, 0.5)
        three.step()
        assert norms == expected
    same_bits(one, three)


@pytest.mark.parametrize("chosen", FORMATS)
def test_what_is_not_finite_stays_so(chosen: str) -> None:
    """In eight bits a block is lost with one of its numbers, and no other."""
    for value in (float("nan"), float("inf")):
        both = []
        for compiled in (True, False):
            param = torch.nn.Parameter(torch.ones(3 * BLOCK))
            param.grad = torch.ones(3 * BLOCK)
            param.grad[BLOCK + 5] = value
            with kernel.switched_off() if not compiled else torch.no_grad():
                optimizer = AdamW([param], lr=0.01, state_format=chosen)
                optimizer.step()
                param.grad = torch.ones(3 * BLOCK)
                optimizer.step()
            assert not param[BLOCK + 5].isfinite()
            assert param[:BLOCK].isfinite().all()
            assert param[2 * BLOCK :].isfinite().all()
            both.append(param.detach())
        assert torch.equal(*(torch.nan_to_num(x, 5.0) for x in both))


@pytest.mark.parametrize(
    ("make_one", "words"),
    [
        (lambda: AdamW(make(), state_format="4-bit"), "write one of: float32, bfloat16, 8-bit"),
        (lambda: AdamW(make(), state_format="8-bit", amsgrad=True), "does not go with amsgrad"),
        (lambda: AdamW(make(), state_format="8-bit", foreach=True), "does not go with foreach"),
        (lambda: AdamW(make(dtype=torch.float64), state_format="8-bit"), "not for float64 on cpu"),
        (lambda: AdamW([torch.nn.Parameter(torch.zeros(2, device="meta"))], state_format="8-bit"), "on meta"),
        (lambda: SGD([{"params": make(), "state_format": "8-bit"}]), "SGD has no state_format"),
        (lambda: MuonAdamW([{"params": make(), "state_format": "8-bit"}]), "MuonAdamW has no state_format"),
    ],
)  # fmt: skip
def test_what_is_not_built_is_refused(make_one: Any, words: str) -> None:
    with pytest.raises(OptimizerError, match=words):
        make_one()


def test_what_cannot_be_stepped_is_refused_and_nothing_is_stepped() -> None:
    def sparse(optimizer: Adam) -> None:
        params_of(optimizer)[0].grad = torch.ones(WIDE[0]).to_sparse()

    def scaled(optimizer: Adam) -> None:
        optimizer.found_inf = torch.zeros(1)  # type: ignore[attr-defined]

    def foreign(optimizer: Adam) -> None:
        optimizer.state[params_of(optimizer)[0]] = {"step": torch.ones(()), "exp_avg": torch.ones(WIDE[0])}

    def shared(optimizer: Adam) -> None:
        first = params_of(optimizer)[0]
        other = torch.nn.Parameter(first.detach())
        other.grad = torch.ones_like(other)
        optimizer.add_param_group({"params": [other]})

    for spoil, words in (
        (sparse, "plain dense parameters"),
        (scaled, "gradient scaler"),
        (foreign, "not in the format 8-bit"),
        (shared, "shares memory"),
    ):
        optimizer = stepped(optimizer_in("8-bit"))
        feed(params_of(optimizer), seed=9)
        spoil(optimizer)
        before = [param.detach().clone() for param in params_of(optimizer)]
        with pytest.raises(OptimizerError, match=words):
            optimizer.step()
        assert all(map(torch.equal, params_of(optimizer), before)), words


@pytest.mark.parametrize(("ours", "theirs"), [(Adam, torch.optim.Adam), (AdamW, torch.optim.AdamW)])
def test_the_arguments_are_torchs_and_one_more(ours: type, theirs: type) -> None:
    mine, other = (dict(inspect.signature(kind).parameters) for kind in (ours, theirs))
    assert mine.pop("state_format").default is None
    assert {name: (p.default, p.kind) for name, p in mine.items()} == {
        name: (p.default, p.kind) for name, p in other.items()
    }
