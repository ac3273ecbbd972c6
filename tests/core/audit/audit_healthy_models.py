"""Healthy models: frozen, tied, sparse, parametrized, with adapters, of few digits; and trainings that are found."""

import copy
import itertools

import torch
from audit_healthy import healthy
from audit_setup import EVERY, STEPS, audited, backward, batches, fit, loss_of, make_model, make_plan
from torch import nn

from lrdiff_core import optim
from lrdiff_core.audit import audit
from lrdiff_core.rates import LoRAPlus, Rule, param_groups
from lrdiff_core.schedules import Schedule, Shape

# -- models ------------------------------------------------------------------------------------------------------------


@healthy("frozen from the start", "AdamW")
def frozen():
    model = make_model()
    plan = make_plan(model, rules=[Rule("0", freeze=True)]).apply_freeze()
    return audited(model, torch.optim.AdamW(plan.groups()), plan)


@healthy("unfrozen one after the other", "AdamW")
def unfrozen():
    model = make_model()
    plan = make_plan(model, rules=[Rule("0", freeze=True), Rule("2", freeze=True)]).apply_freeze()
    optimizer = optim.AdamW(plan.groups())

    def train():
        for name in ("2", "0"):
            fit(model, optimizer, steps=3)
            plan.unfreeze(optimizer, name)
        fit(model, optimizer, steps=3)

    return audited(model, optimizer, train=train)


@healthy("unfrozen as the plan goes on", "AdamW")
def unfrozen_by_the_plan():
    model = make_model()
    plan = make_plan(model, rules=[Rule("0", freeze=True)]).apply_freeze()
    optimizer = optim.AdamW(plan.groups())
    thaw = iter([None, None, "0"])

    def unfreeze():
        if (name := next(thaw, None)) is not None:
            plan.unfreeze(optimizer, name)

    return audited(model, optimizer, plan, after=unfreeze)


@healthy("groups added at unfreeze", "AdamW")
def groups_added():
    model = make_model()
    model[0].requires_grad_(False)
    optimizer = torch.optim.AdamW([*model[2].parameters(), *model[4].parameters()], lr=1e-3)

    def train():
        fit(model, optimizer, steps=4)
        model[0].requires_grad_(True)
        optimizer.add_param_group({"params": list(model[0].parameters()), "lr": 1e-4})
        fit(model, optimizer, steps=4)

    return audited(model, optimizer, train=train)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 8)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 50, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, words):
        return self.head(self.norm(self.embed(words)))


def fit_words(model, optimizer):
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        words = torch.randint(0, 50, (4, 9), generator=generator)
        optimizer.zero_grad()
        logits = model(words[:, :-1])
        nn.functional.cross_entropy(logits.flatten(0, 1), words[:, 1:].flatten()).backward()
        optimizer.step()


@healthy("tied embeddings", "AdamW")
def tied():
    torch.manual_seed(0)
    model = Tied()
    plan = param_groups(model, lr=1e-3, weight_decay=0.1)
    optimizer = torch.optim.AdamW(plan.groups())
    return audited(model, optimizer, plan, train=lambda: fit_words(model, optimizer))


@healthy("sparse gradients", "SGD")
def sparse():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(50, 4, sparse=True), nn.Flatten(), nn.Linear(12, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def train():
        for batch in range(STEPS):
            optimizer.zero_grad()
            model((torch.arange(30).reshape(10, 3) + batch) % 50).square().mean().backward()
            optimizer.step()

    return audited(model, optimizer, train=train)


@healthy("parametrized weights, compiled and wrapped names", "AdamW")
def parametrized():
    model = make_model()
    nn.utils.parametrizations.weight_norm(model[2])
    plan = make_plan(model, scale=[])
    wrapped = nn.Sequential()
    wrapped.add_module("module", model)
    return audited(wrapped, optim.AdamW(plan.groups()), plan)


@healthy("a plan of the inner model, names of the outer one", "AdamW")
def renamed():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = make_model()

        def forward(self, x):
            return self.net(x)

    outer = Outer()
    plan = make_plan(outer.net)
    return audited(outer, torch.optim.AdamW(plan.groups()), plan)


@healthy("bfloat16 weights", "AdamW")
def half_precision():
    model = make_model(torch.bfloat16)
    plan = make_plan(model, lr=0.05)
    return audited(model, torch.optim.AdamW(plan.groups()), plan, dtype=torch.bfloat16)


@healthy("float16 weights", "AdamW")
def float16():
    model = make_model(torch.float16)
    plan = make_plan(model, lr=0.05)
    return audited(model, torch.optim.AdamW(plan.groups(), eps=1e-4), plan, dtype=torch.float16)


@healthy("rates near the weights' digits: nothing can be told", None)
def small_rates():
    model = make_model()
    plan = make_plan(model, lr=1e-7)
    return audited(model, torch.optim.AdamW(plan.groups()), plan)


@healthy("a head that starts at 0", "AdamW")
def zero_head():
    model = make_model()
    for parameter in model[4].parameters():
        nn.init.zeros_(parameter)
    return audited(model, torch.optim.AdamW(model.parameters(), lr=1e-3))


@healthy("a new optimizer every epoch", "AdamW")
def new_optimizers():
    model = make_model()
    plan = make_plan(model)

    def train():
        for _ in range(3):
            fit(model, torch.optim.AdamW(plan.groups()), steps=3)

    return audited(model, None, plan, train=train)


@healthy("autocast", "AdamW")
def autocast():
    model = make_model()
    plan = make_plan(model)
    optimizer = torch.optim.AdamW(plan.groups())

    def train():
        for batch in batches():
            with torch.autocast("cpu", dtype=torch.bfloat16):
                optimizer.zero_grad()
                loss = loss_of(model, batch)
            loss.backward()
            optimizer.step()

    return audited(model, optimizer, plan, train=train)


@healthy("float64 weights", "Adam")
def double():
    model = make_model(torch.float64)
    plan = make_plan(model)
    return audited(model, torch.optim.Adam(plan.groups()), plan, dtype=torch.float64)


@healthy("rates held as tensors", "AdamW")
def tensor_rates():
    model = make_model()
    plan = make_plan(model)
    optimizer = optim.AdamW(plan.groups(tensor_lr=True))
    schedule = Schedule(optimizer, total_steps=STEPS, shape=Shape(warmup=2))
    return audited(model, optimizer, plan, scheduler=schedule)


class Teacher(nn.Module):
    """A student and a slow copy of it, in one module."""

    def __init__(self, wants_gradients):
        super().__init__()
        self.student = make_model()
        self.teacher = copy.deepcopy(self.student).requires_grad_(wants_gradients)

    def forward(self, x):
        return self.student(x)

    @torch.no_grad()
    def follow(self):
        for slow, fast in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            slow.lerp_(fast, 0.1)


@healthy("a momentum encoder inside of the model", "AdamW")
def momentum_encoder():
    model = Teacher(False)
    return audited(model, torch.optim.AdamW(model.student.parameters(), lr=1e-3), after=model.follow)


@healthy("an average inside of the model that nobody froze", None)
def average_inside():
    model = Teacher(True)
    return audited(model, torch.optim.AdamW(model.student.parameters(), lr=1e-3), after=model.follow)


class LoRA(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner.requires_grad_(False)
        self.lora_A = nn.Linear(inner.in_features, 2, bias=False)
        self.lora_B = nn.Linear(2, inner.out_features, bias=False)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x):
        return self.inner(x) + self.lora_B(self.lora_A(x))


@healthy("LoRA+: adapters of which one half starts at 0", "AdamW")
def adapters():
    torch.manual_seed(0)
    model = nn.Sequential(LoRA(nn.Linear(6, 8)), nn.Tanh(), LoRA(nn.Linear(8, 2)))
    plan = param_groups(model, lr=1e-3, scale=[LoRAPlus(16.0)])
    return audited(model, torch.optim.AdamW(plan.groups()), plan)


@healthy("a convolutional network, channels last, with batch norms", "SGD momentum")
def convolutional():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten())
    model.to(memory_format=torch.channels_last)
    plan = param_groups(model, lr=0.1, weight_decay=1e-2, no_weight_decay=["1d"])
    optimizer = torch.optim.SGD(plan.groups(), momentum=0.9)

    def train():
        for _ in range(STEPS):
            optimizer.zero_grad()
            model(torch.randn(4, 3, 8, 8)).square().mean().backward()
            optimizer.step()

    return audited(model, optimizer, plan, train=train)


@healthy("complex weights", "Adam")
def complex_weights():
    torch.manual_seed(0)
    model = nn.Linear(4, 4, dtype=torch.complex64)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def train():
        for _ in range(STEPS):
            optimizer.zero_grad()
            model(torch.randn(5, 4, dtype=torch.complex64)).abs().square().mean().backward()
            optimizer.step()

    return audited(model, optimizer, train=train)


@healthy("LBFGS", None)
def lbfgs():
    model = make_model()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)

    def train():
        for batch in batches():
            optimizer.step(lambda batch=batch: backward(model, batch))

    return audited(model, optimizer, train=train)


@healthy("no plan, no optimizer: whoever steps", "AdamW")
def nothing_given():
    model = make_model()
    return audited(model, train=lambda: fit(model, torch.optim.AdamW(model.parameters())))


@healthy("nothing but the training: models and plans are found", "AdamW")
def whole_process():
    with audit(every=EVERY) as report:
        model = make_model()
        plan = make_plan(model)
        fit(model, optim.AdamW(plan.groups()))
    assert len(report.rows) == 6
    return report.report


@healthy("two models found, with names of their own", "Adam")
def two_models_found():
    with audit(every=EVERY) as report:
        models = [make_model(), make_model()]
        players = [torch.optim.Adam(model.parameters(), lr=1e-3) for model in models]
        for model, player in zip(models, players, strict=True):
            fit(model, player)
    assert [row.name for row in report.rows[5:7]] == ["4.bias", "Sequential.0.weight"]
    return report.report


@healthy("an audit inside of an audit", "AdamW")
def nested():
    model = make_model()
    plan = make_plan(model)
    optimizer = torch.optim.AdamW(plan.groups())
    with audit(model, optimizer, plan, every=3) as outer:
        inner = audited(model, optimizer, plan)
    assert inner.passed
    return outer.report


@healthy("weights clamped by the user", "SGD")
def clamped():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def clamp():
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.clamp_(-0.2, 0.2)

    return audited(model, optimizer, after=clamp)


@healthy("a hundred groups", "AdamW")
def many_groups():
    torch.manual_seed(0)
    hidden = itertools.chain(*((nn.Linear(4, 4), nn.Tanh()) for _ in range(20)))
    model = nn.Sequential(nn.Linear(6, 4), *hidden, nn.Linear(4, 2))
    plan = param_groups(model, lr=1e-2, rules=[Rule(f"{i}.*", lr=1e-3 * (i + 1)) for i in range(1, 40, 2)])
    return audited(model, optim.AdamW(plan.groups()), plan)
