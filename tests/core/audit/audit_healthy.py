"""Healthy trainings, as people write them: the auditor has to stay silent.

Those through other people's trainers stand in ``tests/interop/test_audit.py``.
"""

import contextlib
import copy
import itertools
from dataclasses import dataclass

import torch
from audit_setup import EVERY, STEPS, audited, backward, batches, fit, loss_of, make_model, make_plan
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lrdiff_core import optim
from lrdiff_core.audit import audit
from lrdiff_core.rates import LoRAPlus, Rule, param_groups
from lrdiff_core.schedules import Schedule, Shape


@dataclass(frozen=True)
class Healthy:
    train: object
    rule: str | None  # that has to be recognised; None: not known, or several


HEALTHY = {}


def healthy(name, rule):
    def add(function):
        HEALTHY[name] = Healthy(function, rule)
        return function

    return add


def plain(optimizer, rule, *, weight_decay=0.1, **options):
    def train():
        model = make_model()
        plan = make_plan(model, weight_decay=weight_decay)
        return audited(model, optimizer(plan.groups(), **options), plan)

    HEALTHY[f"{optimizer.__module__.split('.')[0]} {optimizer.__name__} {options or ''}".strip()] = Healthy(train, rule)


class Lion(torch.optim.Optimizer):
    def __init__(self, params, lr=1e-3):
        super().__init__(params, {"lr": lr, "betas": (0.9, 0.99), "weight_decay": 0.0})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for parameter in group["params"]:
                moment = self.state[parameter].setdefault("exp_avg", torch.zeros_like(parameter))
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(moment.lerp(parameter.grad, 1 - beta1).sign_(), alpha=-group["lr"])
                moment.lerp_(parameter.grad, 1 - beta2)


# Every optimizer of torch, of ours, and one of the tests' own.
plain(torch.optim.SGD, "SGD")
plain(torch.optim.SGD, "SGD momentum", momentum=0.9)
plain(torch.optim.SGD, "SGD momentum", momentum=0.9, dampening=0.5)
plain(torch.optim.SGD, "SGD Nesterov", momentum=0.9, nesterov=True)
plain(torch.optim.SGD, "SGD", maximize=True)
plain(torch.optim.Adam, "Adam")
plain(torch.optim.Adam, "AdamW", decoupled_weight_decay=True)
plain(torch.optim.AdamW, "AdamW", foreach=True)
plain(torch.optim.AdamW, "AdamW", fused=True)
plain(torch.optim.AdamW, "AdamW", amsgrad=True)
plain(torch.optim.AdamW, "AdamW", maximize=True)
plain(torch.optim.NAdam, None)
plain(torch.optim.RAdam, None)
plain(torch.optim.RMSprop, None, momentum=0.9)
plain(torch.optim.Adagrad, None)
plain(torch.optim.Adadelta, None)
plain(torch.optim.Adamax, None)
plain(torch.optim.ASGD, None)
plain(torch.optim.Adafactor, None)
plain(torch.optim.Rprop, None, weight_decay=0.0)
plain(optim.SGD, "SGD Nesterov", momentum=0.9, nesterov=True)
plain(optim.Adam, "Adam")
plain(optim.AdamW, "AdamW")
plain(Lion, "Lion")


def scheduled(name, make, *, rule="AdamW", **how):
    def train():
        model = make_model()
        plan = make_plan(model)
        optimizer = torch.optim.AdamW(plan.groups())
        return audited(model, optimizer, plan, scheduler=make(optimizer), **how)

    HEALTHY[f"schedule {name}"] = Healthy(train, rule)


def rates(optimizer):
    return [group["lr"] for group in optimizer.param_groups]


scheduled("ours", lambda o: Schedule(o, total_steps=STEPS, shape=Shape(warmup=3, floor=0.1)))
scheduled("LambdaLR from 0", lambda o: lr_scheduler.LambdaLR(o, lambda step: min(1.0, step / 4)))
scheduled("OneCycleLR", lambda o: lr_scheduler.OneCycleLR(o, rates(o), total_steps=STEPS))
scheduled("CyclicLR", lambda o: lr_scheduler.CyclicLR(
    o, [rate / 10 for rate in rates(o)], rates(o), step_size_up=4, cycle_momentum=False
))  # fmt: skip
scheduled("CosineAnnealingLR", lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS))
scheduled("CosineAnnealingWarmRestarts", lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3))
scheduled("MultiStepLR", lambda o: lr_scheduler.MultiStepLR(o, [2, 5]))
scheduled("SequentialLR", lambda o: lr_scheduler.SequentialLR(
    o, [lr_scheduler.LinearLR(o, total_iters=3), lr_scheduler.ExponentialLR(o, 0.9)], [3]
))  # fmt: skip
scheduled("PolynomialLR", lambda o: lr_scheduler.PolynomialLR(o, STEPS))


@healthy("schedule handed over", "AdamW")
def schedule_handed_over():
    model = make_model()
    plan = make_plan(model, rules=[Rule("4", schedule=Shape(kind="constant"))])
    optimizer = optim.AdamW(plan.groups())
    schedule = plan.schedule(optimizer, total_steps=STEPS, shape=Shape(warmup=2))
    return audited(model, optimizer, plan, scheduler=schedule, schedule=schedule)


@healthy("ReduceLROnPlateau", "AdamW")
def plateau():
    model = make_model()
    plan = make_plan(model)
    optimizer = torch.optim.AdamW(plan.groups())
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    return audited(model, optimizer, plan, after=lambda: scheduler.step(1.0))


@healthy("a schedule by hand that starts at a hundredth", "AdamW")
def by_hand():
    model = make_model()
    plan = make_plan(model)
    optimizer = torch.optim.AdamW(plan.groups())
    bases = rates(optimizer)

    def train():
        for step, batch in enumerate(batches()):
            for group, base in zip(optimizer.param_groups, bases, strict=True):
                group["lr"] = base * 0.01 * (step + 1)
            backward(model, batch)
            optimizer.step()

    return audited(model, optimizer, plan, train=train)


class TimmScheduler:
    """As timm's: the groups' base rate, times a factor, times the group's lr_scale."""

    def __init__(self, optimizer):
        self.optimizer, self.bases = optimizer, []
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
            self.bases.append(group["initial_lr"])
        self.number = -1
        self.step()

    def step(self):
        self.number += 1
        for group, base in zip(self.optimizer.param_groups, self.bases, strict=True):
            rate = base * (1 - self.number / (2 * STEPS))
            group["lr"] = rate * group["lr_scale"]


@healthy("timm's lr_scale with a scheduler that knows it", "AdamW")
def timm():
    model = make_model()
    plan = make_plan(model)
    optimizer = torch.optim.AdamW([{**group, "lr": 1e-2, "lr_scale": group["lr"] / 1e-2} for group in plan.groups()])
    return audited(model, optimizer, plan, scheduler=TimmScheduler(optimizer))


@healthy("timm's lr_scale without a plan", "AdamW")
def timm_without_a_plan():
    model = make_model()
    groups = [{"params": [p], "lr_scale": 0.5**i} for i, p in enumerate(model.parameters())]
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    scheduler = TimmScheduler(optimizer)
    return audited(model, optimizer, scheduler=scheduler)


# -- loops -------------------------------------------------------------------------------------------------------------


def looped(name, rule, make_optimizer=torch.optim.AdamW):
    """A loop written as a generator: between two yields lies one optimizer step."""

    def add(loop):
        def train():
            model = make_model()
            plan = make_plan(model)
            optimizer = make_optimizer(plan.groups())
            return audited(model, optimizer, plan, train=lambda: loop(model, optimizer))

        HEALTHY[name] = Healthy(train, rule)
        return loop

    return add


@looped("clipping by norm", "SGD", torch.optim.SGD)
def clipping(model, optimizer):
    for batch in batches():
        backward(model, batch)
        clip_grad_norm_(model.parameters(), 0.01)
        optimizer.step()


@looped("clipping by value", "SGD", torch.optim.SGD)
def clipping_values(model, optimizer):
    for batch in batches():
        backward(model, batch)
        clip_grad_value_(model.parameters(), 0.001)
        optimizer.step()


@looped("clipping inside of the step", "SGD", lambda groups: ClippedSGD(groups))
def clipping_inside(model, optimizer):
    fit(model, optimizer)


class ClippedSGD(torch.optim.SGD):
    def step(self, closure=None):
        clip_grad_norm_([p for group in self.param_groups for p in group["params"]], 0.01)
        return super().step(closure)


@looped("accumulation", "AdamW")
def accumulation(model, optimizer):
    for number, batch in enumerate(batches(4 * STEPS)):
        (loss_of(model, batch) / 4).backward()
        if number % 4 == 3:
            optimizer.step()
            optimizer.zero_grad()


@looped("closure", "SGD", torch.optim.SGD)
def closure(model, optimizer):
    for batch in batches():
        optimizer.step(lambda batch=batch: backward(model, batch))


@looped("loss scaling", "SGD", torch.optim.SGD)
def scaling(model, optimizer):
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    for number, batch in enumerate(batches()):
        optimizer.zero_grad()
        loss = loss_of(model, batch) * (float("inf") if number == 2 else 1.0)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()


@looped("loss scaling, fused", "AdamW", lambda groups: torch.optim.AdamW(groups, fused=True))
def scaling_fused(model, optimizer):
    scaling(model, optimizer)


@looped("moving average, swapped in to evaluate", "AdamW")
def averaged(model, optimizer):
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))

    def evaluate():
        average.update_parameters(model)
        own = copy.deepcopy(model.state_dict())
        model.load_state_dict(average.module.state_dict())
        model.load_state_dict(own)

    fit(model, optimizer, after=evaluate)


@looped("resume of the same run", "AdamW")
def resumed(model, optimizer):
    scheduler = lr_scheduler.CosineAnnealingLR(optimizer, 2 * STEPS)
    fit(model, optimizer, scheduler)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), scheduler.state_dict()))
    for part, state in zip((model, optimizer, scheduler), saved, strict=True):
        part.load_state_dict(state)
    fit(model, optimizer, scheduler)


@looped("a step that raises, caught", "AdamW")
def raising(model, optimizer):
    def fault():
        raise ValueError

    for number, batch in enumerate(batches()):
        if number % 2:
            with contextlib.suppress(ValueError):
                optimizer.step(fault)
        backward(model, batch)
        optimizer.step()


@looped("sharpness-aware: two gradients a step", "SGD", lambda groups: SAM(groups))
def sharpness_aware(model, optimizer):
    for batch in batches():
        optimizer.step(lambda batch=batch: backward(model, batch))


class SAM(torch.optim.Optimizer):
    """Foret et al. 2021, arXiv:2010.01412: climb a little, take the gradient there, step from where one was."""

    def __init__(self, groups):
        self.base = torch.optim.SGD(groups)
        super().__init__(self.base.param_groups, {})
        self.param_groups = self.base.param_groups

    def step(self, closure):
        closure()
        held = [(p, p.detach().clone()) for group in self.param_groups for p in group["params"]]
        with torch.no_grad():
            for parameter, _ in held:
                parameter.add_(parameter.grad, alpha=0.05)
        closure()
        with torch.no_grad():
            for parameter, before in held:
                parameter.copy_(before)
        self.base.step()


@looped("Lookahead", "AdamW", lambda groups: Lookahead(groups))
def lookahead(model, optimizer):
    fit(model, optimizer)


class Lookahead(torch.optim.Optimizer):
    """Zhang et al. 2019, arXiv:1907.08610: every third step goes back half the way."""

    def __init__(self, groups):
        self.base = torch.optim.AdamW(groups)
        super().__init__(self.base.param_groups, {})
        self.param_groups, self.number = self.base.param_groups, 0
        self.slow = [p.detach().clone() for group in self.param_groups for p in group["params"]]

    @torch.no_grad()
    def step(self):
        self.base.step()
        self.number += 1
        if self.number % 3 == 0:
            for slow, fast in zip(self.slow, (p for group in self.param_groups for p in group["params"]), strict=True):
                fast.copy_(slow.lerp_(fast, 0.5))


@looped("an optimizer that is none of torch's", "SGD", lambda groups: Foreign(groups))
def foreign(model, optimizer):
    fit(model, optimizer)


class Foreign:
    def __init__(self, groups):
        self.param_groups = groups

    def step(self):
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(parameter.grad, alpha=-group["lr"])


# -- several optimizers ------------------------------------------------------------------------------------------------


@healthy("Muon beside AdamW", None)
def muon_beside_adamw():
    model = make_model()
    plan = make_plan(model)
    groups = plan.groups()
    muon = torch.optim.Muon([group for group in groups if group["params"][0].ndim == 2])
    adamw = torch.optim.AdamW([group for group in groups if group["params"][0].ndim < 2])

    def train():
        for batch in batches():
            backward(model, batch)
            muon.step()
            adamw.step()

    return audited(model, [muon, adamw], plan, train=train)


@healthy("MuonAdamW", None)
def muon_adamw():
    model = make_model()
    plan = make_plan(model)
    groups = [{**group, "use_muon": group["params"][0].ndim == 2} for group in plan.groups()]
    return audited(model, optim.MuonAdamW(groups), plan)


@healthy("two players, a step each", "Adam")
def two_players():
    models = nn.ModuleList([make_model(), make_model()])
    players = [torch.optim.Adam(model.parameters(), lr=rate) for model, rate in zip(models, (1e-3, 4e-3), strict=True)]

    def train():
        for number, batch in enumerate(batches(2 * STEPS)):
            mine = models[number % 2]
            models[1 - number % 2].requires_grad_(False)
            mine.requires_grad_(True)
            backward(mine, batch)
            players[number % 2].step()

    return audited(models, players, train=train)


@healthy("first the head, then everything, with another optimizer", "AdamW")
def head_first():
    model = make_model()
    head = torch.optim.AdamW(model[4].parameters(), lr=1e-2)
    rest = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def train():
        fit(model, head)
        fit(model, rest)

    return audited(model, train=train)


@healthy("one optimizer a parameter, stepped in backward", "AdamW")
def in_backward():
    model = make_model()
    optimizers = {p: torch.optim.AdamW([p], lr=1e-3) for p in model.parameters()}

    def hook(parameter):
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    handles = [p.register_post_accumulate_grad_hook(hook) for p in model.parameters()]

    def train():
        for batch in batches():
            loss_of(model, batch).backward()

    report = audited(model, list(optimizers.values()), train=train)
    for handle in handles:
        handle.remove()
    return report


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
