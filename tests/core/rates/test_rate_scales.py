"""Scales against formulas written down anew from their papers; a contract that every scale keeps."""

import math

import pytest
import torch
from torch import nn

from lrdiff_core.errors import RateError
from lrdiff_core.rates import HeadMultiplier, LayerDecay, LoRAPlus, Rule, Scale, Slices, WidthScale, param_groups


def chain(layers):
    return nn.Sequential(*[nn.Linear(3, 3) for _ in range(layers)])


class Adapted(nn.Module):
    """Named as PEFT names them: lora_A and lora_B inside a linear layer, an embedding's pair, a new head."""

    def __init__(self):
        super().__init__()
        self.query = nn.ModuleDict(
            {
                "base_layer": nn.Linear(4, 4),
                "lora_A": nn.ModuleDict({"default": nn.Linear(4, 2, bias=False)}),
                "lora_B": nn.ModuleDict({"default": nn.Linear(2, 4, bias=True)}),
            }
        )
        self.lora_embedding_B = nn.Parameter(torch.zeros(4, 2))
        self.norm = nn.LayerNorm(4)
        self.score = nn.Linear(4, 2)


def mlp(width, hidden=None):
    return nn.Sequential(nn.Linear(3, width), nn.Linear(width, hidden or width), nn.Linear(hidden or width, 2))


CASES = {  # every scale there is, with a model it fits; a new one is entered here
    LayerDecay: (lambda: LayerDecay(0.8), lambda: chain(4)),
    Slices: (lambda: Slices(0.01), lambda: chain(4)),
    HeadMultiplier: (lambda: HeadMultiplier(10), lambda: chain(4)),
    LoRAPlus: (lambda: LoRAPlus(16), Adapted),
    WidthScale: (lambda: WidthScale(mlp(8)), lambda: mlp(32)),
}


def rates(model, *scales, **more):
    return {entry.name: entry.lr for entry in param_groups(model, scale=scales, **{"lr": 1.0, **more})}


# -- the contract ------------------------------------------------------------------------------------------------------


def test_every_scale_of_the_package_is_in_the_contract():
    import lrdiff_core.rates as package

    public = [getattr(package, name) for name in package.__all__]
    scales = {x for x in public if isinstance(x, type) and callable(getattr(x, "factors", None)) and x is not Scale}
    assert scales == set(CASES)
    assert scales


@pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.__name__)
def test_contract(kind):
    make, model = CASES[kind]
    scale = make()
    assert isinstance(scale, Scale)
    assert scale.label.startswith(kind.__name__)
    alone = rates(model(), scale)
    assert all(math.isfinite(rate) and rate > 0 for rate in alone.values())
    assert len(set(alone.values())) > 1
    assert rates(model(), scale, lr=0.5) == {name: 0.5 * rate for name, rate in alone.items()}  # a factor, no rate
    frozen = model().requires_grad_(False)
    assert rates(frozen, scale) == alone  # freezing changes no rate
    wrapped = torch.compile(model(), backend="eager")
    assert rates(wrapped, scale) == alone
    name = next(iter(alone))
    stopped = rates(model(), scale, rules=[Rule(name, kind="glob", lr=0.123)])
    assert stopped == {**alone, name: 0.123}
    with pytest.raises(AttributeError):
        scale.label = "other"  # frozen


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, True, "2"])
@pytest.mark.parametrize("kind", [LayerDecay, Slices, HeadMultiplier, LoRAPlus])
def test_bad_numbers(kind, value):
    with pytest.raises(RateError, match=rf"\w+ of {kind.__name__} is .*\nhelp: write a (plain )?number in \(0, inf\)"):
        kind(value)


def test_scales_multiply():
    one, other = LayerDecay(0.5), HeadMultiplier(10)
    assert rates(chain(3), one, other)["0.weight"] == 0.25
    assert rates(chain(3), one, other)["2.weight"] == 10.0
    assert rates(chain(3), one, one)["0.weight"] == 0.0625


# -- each against its paper --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.65, 0.9, 1.0, 1 / 2.6])
def test_layer_decay_multiplies_from_layer_to_layer(decay):
    found = rates(chain(5), LayerDecay(decay))
    rate = 1.0
    for layer in reversed(range(5)):  # ULMFiT: the rate of a layer is the one above it times the decay
        assert found[f"{layer}.weight"] == found[f"{layer}.bias"] == pytest.approx(rate, rel=1e-14)
        rate *= decay


def test_layer_decay_has_stem_and_head():
    model = nn.ModuleDict({"embed": nn.Linear(3, 3), "blocks": chain(12), "head": nn.Linear(3, 3)})
    found = rates(model, LayerDecay(0.75))
    # BEiT: 0.75 ** (num_layers - 1 - i) with num_layers = 14
    assert found["embed.weight"] == 0.75**13
    assert found["blocks.0.weight"] == 0.75**12
    assert found["blocks.11.weight"] == 0.75
    assert found["head.weight"] == 1.0


def test_slices_are_in_geometric_progression_as_in_fastai():
    low, high, layers = 1e-5, 1e-3, 4
    found = rates(chain(layers), Slices(low / high), lr=high)
    step = (high / low) ** (1 / (layers - 1))  # fastai multiplies from the first layer to the last
    expected = low
    for layer in range(layers):
        assert found[f"{layer}.weight"] == pytest.approx(expected, rel=1e-12)
        expected *= step
    assert found["3.weight"] == high  # the ends are exact


def test_the_ends_of_slices_are_exact():
    low, high = 0.01, 0.35
    assert low * (high / low) != high  # rounding that must not reach the last layer
    found = rates(chain(3), Slices(low, high))
    assert (found["0.bias"], found["2.bias"]) == (low, high)


def test_slices_of_given_layers_and_of_one():
    layers = [["0", "1"], "2", "3"]
    found = rates(chain(4), Slices(0.01, layers=layers))
    assert [found[f"{i}.bias"] for i in range(4)] == pytest.approx([0.01, 0.01, 0.1, 1.0])
    assert set(rates(chain(1), Slices(0.01, 0.5)).values()) == {0.5}
    decades = rates(chain(2), Slices(1.0, 10.0))
    assert (decades["0.bias"], decades["1.bias"]) == (1.0, 10.0)


def test_fastais_slice_with_one_number_is_a_head_multiplier():
    found = rates(chain(3), HeadMultiplier(10), lr=1e-4)  # slice(1e-3)
    assert [found[f"{i}.bias"] for i in range(3)] == [1e-4, 1e-4, 1e-3]


def test_head_multiplier_takes_a_named_head():
    found = rates(chain(3), HeadMultiplier(10, head="1"))
    assert [found[f"{i}.bias"] for i in range(3)] == [1.0, 10.0, 1.0]
    with pytest.raises(
        RateError, match='head "9" matches no parameter\nhelp: parameters of this model start with: 0, 1, 2'
    ):
        rates(chain(3), HeadMultiplier(10, head="9"))


def test_lora_plus_moves_the_b_matrices_alone():
    found = rates(Adapted(), LoRAPlus(16))
    assert {name for name, rate in found.items() if rate != 1.0} == {"query.lora_B.default.weight"}
    assert found["query.lora_B.default.weight"] == 16.0
    with pytest.raises(RateError) as caught:
        rates(chain(2), LoRAPlus(16))
    assert str(caught.value) == (
        "LoRAPlus finds no lora_B matrix in this model\n"
        "help: add the adapters first, or name the part that marks them: component=..."
    )


# -- width: the learning rate rows of tables 3 and 8 -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer", "output_multiplier", "expected"),
    [
        # input weight, input bias, hidden weight, hidden bias, output weight, output bias; width 8 -> 32
        ("adam", False, [1, 1, 1 / 4, 1, 1 / 4, 1]),
        ("sgd", False, [4, 4, 1, 4, 1 / 4, 1]),
        ("adam", True, [1, 1, 1 / 4, 1, 1, 1]),
        ("sgd", True, [4, 4, 1, 4, 4, 1]),
    ],
)
def test_width_scale_is_table_3_and_8(optimizer, output_multiplier, expected):
    scale = WidthScale(mlp(8), optimizer=optimizer, output_multiplier=output_multiplier)
    assert list(rates(mlp(32), scale).values()) == expected


def test_the_base_model_itself_is_untouched():
    assert set(rates(mlp(8), WidthScale(mlp(8))).values()) == {1.0}


def test_widths_may_grow_apart():
    found = rates(mlp(16, 64), WidthScale(mlp(8, 8)))  # 2 times and 8 times
    assert found["1.weight"] == 1 / 2
    assert found["2.weight"] == 1 / 8
    found = rates(mlp(16, 64), WidthScale(mlp(8, 8), optimizer="sgd"))
    assert found["1.weight"] == 8 / 2
    assert (found["0.weight"], found["1.bias"], found["2.weight"]) == (2, 8, 1 / 8)


def test_convolutions_embeddings_attention_and_norms():
    def model(d):
        return nn.ModuleDict(
            {
                "embed": nn.Embedding(10, d),
                "conv": nn.Conv1d(d, d, 3),
                "up": nn.ConvTranspose1d(2 * d, d, 3),
                "down": nn.ConvTranspose1d(d, 1, 3),
                "attention": nn.MultiheadAttention(d, 1),
                "norm": nn.LayerNorm(d),
            }
        )

    found = rates(model(16), WidthScale(model(4)))
    hidden = {name for name, rate in found.items() if rate == 1 / 4}
    assert hidden == {
        *("conv.weight", "up.weight", "down.weight", "attention.in_proj_weight", "attention.out_proj.weight")
    }
    assert {rate for name, rate in found.items() if name not in hidden} == {1.0}


def test_a_transposed_convolution_has_its_fan_in_first():
    wide, base = nn.ConvTranspose1d(8, 16, 3), nn.ConvTranspose1d(4, 4, 3)  # fan-in 2 times, fan-out 4 times
    assert rates(wide, WidthScale(base))["weight"] == 1 / 2
    assert rates(wide, WidthScale(base, optimizer="sgd"))["weight"] == 4 / 2


def test_shapes_serve_as_base():
    shapes = {name: list(parameter.shape) for name, parameter in mlp(8).named_parameters()}
    assert rates(mlp(32), WidthScale(shapes)) == rates(mlp(32), WidthScale(mlp(8)))


class Raw(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.position = nn.Parameter(torch.zeros(7, d))
        self.out = nn.Linear(d, 1)


def test_what_a_shape_does_not_tell_is_asked_for():
    with pytest.raises(RateError) as caught:
        rates(Raw(8), WidthScale(Raw(4)))
    assert str(caught.value) == (
        '"position" of Raw grows in dimension 1: [in, out] or [out, in] cannot be determined\n'
        'help: say what it is: roles={"position": "hidden"} for [out, in], fan_in_first=["position"] for [in, out]; '
        'or roles={"position": "input"}, or one of: input, hidden, output, fixed'
    )
    assert rates(Raw(8), WidthScale(Raw(4), roles={"position": "input"}))["position"] == 1.0
    assert rates(Raw(8), WidthScale(Raw(4), roles={"pos*": "output"}))["position"] == 0.5
    assert rates(Raw(8), WidthScale(Raw(4), "sgd", roles={"pos*": "fixed"}))["position"] == 1.0
    with pytest.raises(RateError, match='role "nope" matches no parameter'):
        rates(Raw(8), WidthScale(Raw(4), roles={"position": "input", "nope": "input"}))


def test_tied_embeddings_need_the_other_table():
    def model(d):
        tied = nn.ModuleDict({"embed": nn.Embedding(5, d), "head": nn.Linear(d, 5)})
        tied["head"].weight = tied["embed"].weight
        return tied

    with pytest.raises(RateError, match=r'"embed\.weight" is both an input and an output weight \(tied with head'):
        rates(model(8), WidthScale(model(4)))
    assert rates(model(8), WidthScale(model(4), output_multiplier=True))["embed.weight"] == 1.0


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: WidthScale(mlp(8), "lion"), 'WidthScale has no rates for the optimizer "lion"'),
        (lambda: WidthScale(mlp(8), roles={"0": "stem"}), 'role of "0" is "stem"'),
        (lambda: rates(mlp(8), WidthScale(chain(2))), "the model and its base differ in parameters: 2.weight, 2.bias"),
        (lambda: rates(mlp(8), WidthScale(chain(4))), "the model and its base differ in parameters: 3.bias, 3.weight"),
        (
            lambda: rates(mlp(8), WidthScale({n: [1] for n, _ in mlp(8).named_parameters()})),
            '"0.weight" is [8, 3] here and [1] in the base model',
        ),
        (
            lambda: rates(nn.Conv2d(8, 8, 5), WidthScale(nn.Conv2d(4, 4, 3))),
            '"weight" grows in the dimensions [0, 1, 2, 3]: its fan-in cannot be determined',
        ),
    ],
)
def test_width_faults(make, text):
    with pytest.raises(RateError) as caught:
        make()
    assert caught.value.message == text


def test_adam_rates_of_mup_keep_the_size_of_the_first_change_of_the_output():
    """What muP is for: one Adam-like (sign) step moves the output by about the same at every width."""

    def change(width, scaled):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(16, width, False), nn.Linear(width, width, False), nn.Linear(width, 1, False))
        for i, layer in enumerate(model):
            nn.init.normal_(layer.weight, std=layer.in_features ** -(1.0 if i == 2 else 0.5))
        x = torch.randn(64, 16)
        before = model(x)
        (before * torch.randn(64, 1)).mean().backward()
        base = nn.Sequential(nn.Linear(16, 64, False), nn.Linear(64, 64, False), nn.Linear(64, 1, False))
        plan = param_groups(model, lr=1e-3, scale=[WidthScale(base)] if scaled else [])
        with torch.no_grad():
            for group in plan.groups():
                for parameter in group["params"]:
                    parameter -= group["lr"] * parameter.grad.sign()
        return (model(x) - before).abs().mean().item()

    assert change(1024, scaled=True) / change(64, scaled=True) < 2
    assert change(1024, scaled=False) / change(64, scaled=False) > 6
