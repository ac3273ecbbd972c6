"""Healthy loops: clipping, accumulation, closures, loss scaling, averages, wrappers, several optimizers."""

import contextlib
import copy

import torch
from audit_healthy import HEALTHY, Healthy, healthy
from audit_setup import STEPS, audited, backward, batches, fit, loss_of, make_model, make_plan
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lrdiff_core import optim

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


@looped("state lost in the middle", "AdamW")
def state_lost(model, optimizer):
    fit(model, optimizer, steps=3)
    optimizer.state.clear()
    fit(model, optimizer, steps=4)


@healthy("a decay with a schedule of its own, no plan", "AdamW")
def decay_scheduled():
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters())

    def grow():
        optimizer.param_groups[0]["weight_decay"] *= 1.1

    return audited(model, optimizer, after=grow)


class Lamb(torch.optim.Optimizer):
    """You et al. 2020, arXiv:1904.00962: Adam's direction, a step as long as the weights are."""

    def __init__(self, groups):
        super().__init__(groups, {"betas": (0.9, 0.999), "weight_decay": 0.0})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                m = state.setdefault("exp_avg", torch.zeros_like(p)).lerp_(p.grad, 0.1)
                v = state.setdefault("exp_avg_sq", torch.zeros_like(p)).lerp_(p.grad**2, 0.001)
                state["step"] = state.get("step", 0) + 1
                way = (m / (1 - 0.9 ** state["step"])) / ((v / (1 - 0.999 ** state["step"])).sqrt() + 1e-8)
                p.add_(way, alpha=-group["lr"] * float(p.norm() / way.norm()))


@looped("LAMB: Adam's direction at rates of its own", None, Lamb)
def lamb(model, optimizer):
    fit(model, optimizer)


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
