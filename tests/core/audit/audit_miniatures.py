"""Miniatures of bugs that people reported: what was asked for is not what is applied, and nobody is told.

Each is written anew, in a few lines, after the report named beside it; it returns the auditor's report.
"""

import copy
from dataclasses import dataclass

import torch
from audit_setup import STEPS, audited, backward, batches, fit, loss_of, make_model, make_plan
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from lrdiff_core.rates import LayerDecay, Rule, param_groups
from lrdiff_core.schedules import Schedule, Shape


@dataclass(frozen=True)
class Miniature:
    train: object
    kind: str  # of the finding that has to be there
    names: str  # the beginning of a parameter's name that it has to name; "" where it is about all
    source: str


MINIATURES = {}


def miniature(kind, source, names=""):
    def add(function):
        MINIATURES[function.__name__] = Miniature(function, kind, names, source)
        return function

    return add


def planned(optimizer=torch.optim.AdamW, **options):
    """A model, its plan, and an optimizer that was given the plan's groups."""
    model = make_model()
    plan = make_plan(model)
    return model, plan, optimizer(plan.groups(), **options)


# -- groups thrown away, another optimizer -----------------------------------------------------------------------------


@miniature("groups-lost", "DeepSpeed#8440: a list of groups is flattened and built anew from the configuration")
def groups_flattened():
    model, plan, client = planned()
    flat = [parameter for group in client.param_groups for parameter in group["params"]]
    engine = torch.optim.AdamW(flat, lr=5e-4, weight_decay=0.01)
    return audited(model, engine, plan)


@miniature("groups-lost", "DeepSpeed#7713: a warm-up writes one rate into the groups of Muon and of Adam")
def warmup_writes_one_rate():
    model, plan, optimizer = planned()

    def warm_up():
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, (number[0] + 1) / 4)
        number[0] += 1

    number = [0]
    warm_up()
    return audited(model, optimizer, plan, after=warm_up)


@miniature("groups-lost", "DeepSpeed#8171: the warm-up's target is the rate of group 0 for all groups")
def warmup_towards_group_0():
    model, plan, optimizer = planned()
    target = optimizer.param_groups[0]["lr"]

    def train():
        for step, batch in enumerate(batches()):
            for group in optimizer.param_groups:
                group["lr"] = target * min(1.0, (step + 1) / 4)
            backward(model, batch)
            optimizer.step()

    return audited(model, optimizer, plan, train=train)


@miniature("groups-lost", "torch.optim takes any key: a misspelt one leaves the default rate")
def misspelt_key():
    model = make_model()
    plan = make_plan(model)
    groups = [{**group, "learning_rate": group["lr"]} for group in plan.groups()]
    for group in groups:
        del group["lr"]
    return audited(model, torch.optim.AdamW(groups, lr=1e-3), plan)


@miniature("other-optimizer", "DeepSpeed#8438, accelerate#2169: the engine steps an optimizer of its own")
def engine_brings_its_own_optimizer():
    model, plan, client = planned()

    class Engine:
        def __init__(self, model, optimizer):
            self.model = model
            self.own = torch.optim.Adam(model.parameters(), lr=1e-3)

    engine = Engine(model, client)
    return audited(model, client, plan, train=lambda: fit(model, engine.own))


@miniature("other-optimizer", "DeepSpeed#8461: one rate asked, the configuration's rate applied")
def engine_brings_its_own_rate():
    model = make_model()
    client = torch.optim.AdamW(model.parameters(), lr=3e-4)
    return audited(model, client, train=lambda: fit(model, torch.optim.AdamW(model.parameters(), lr=5e-5)))


@miniature("scaled", "a launcher multiplies the rate by the number of processes", "0.")
def rate_times_processes():
    model, plan, optimizer = planned()
    for group in optimizer.param_groups:
        group["lr"] *= 4
    return audited(model, optimizer, plan)


@miniature("no-step", "a trainer's own update loop: the optimizer is an ornament")
def no_optimizer_at_all():
    model, plan, optimizer = planned()

    def train():
        for batch in batches():
            backward(model, batch)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= 1e-3 * parameter.grad

    return audited(model, optimizer, plan, train=train)


# -- rules -------------------------------------------------------------------------------------------------------------


class Muon(torch.optim.Optimizer):
    """After DeepSpeed#8441: in the default stage the momentum is applied as it is, never orthogonalized."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr, "momentum": 0.95, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                buffer = state.setdefault("momentum_buffer", torch.zeros_like(parameter))
                buffer.lerp_(parameter.grad, 1 - group["momentum"])
                parameter.add_(buffer, alpha=-group["lr"])


@miniature("rule", "DeepSpeed#8441: Muon runs no Newton-Schulz and trains with SGD", "0.weight")
def muon_is_sgd():
    model = make_model()
    return audited(model, Muon([p for p in model.parameters() if p.ndim == 2], lr=0.02))


class AdamWithoutCorrection(torch.optim.Optimizer):
    """AdamW with correct_bias=False, under the name of AdamW."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                m = state.setdefault("exp_avg", torch.zeros_like(parameter))
                v = state.setdefault("exp_avg_sq", torch.zeros_like(parameter))
                state["step"] = state.get("step", 0) + 1
                m.lerp_(parameter.grad, 0.1)
                v.mul_(0.999).addcmul_(parameter.grad, parameter.grad, value=0.001)
                parameter.addcdiv_(m, v.sqrt() + group["eps"], value=-group["lr"])


AdamWithoutCorrection.__name__ = "AdamW"


@miniature("rule", "transformers' AdamW(correct_bias=False): the first steps are three times as long", "0.weight")
def no_bias_correction():
    model = make_model()
    return audited(model, AdamWithoutCorrection(model.parameters(), lr=1e-3))


class CoupledAdamW(torch.optim.Adam):
    pass


CoupledAdamW.__name__ = "AdamW"


@miniature("rule", "nntrainer#3527: what is called AdamW decays through the gradient, as Adam does", "0.weight")
def adamw_is_adam():
    model = make_model()
    return audited(model, CoupledAdamW(model.parameters(), lr=1e-3, weight_decay=0.1))


@miniature("rule", "nesterov=True stands in the configuration and does not reach the step", "0.weight")
def nesterov_dropped():
    class SGD(torch.optim.SGD):
        def step(self):
            for group in self.param_groups:
                group["nesterov"] = False
            super().step()
            for group in self.param_groups:
                group["nesterov"] = True

    model = make_model()
    return audited(model, SGD(model.parameters(), lr=1e-2, momentum=0.9, nesterov=True))


# -- rates and schedules -----------------------------------------------------------------------------------------------


@miniature("lr-scale", "timm#2532: groups carry lr_scale, which only timm's own scheduler applies", "0.")
def lr_scale_ignored():
    model = make_model()
    plan = make_plan(model)
    groups = [{**group, "lr": 1e-2, "lr_scale": group["lr"] / 1e-2} for group in plan.groups()]
    optimizer = torch.optim.AdamW(groups)
    return audited(model, optimizer, plan, scheduler=CosineAnnealingLR(optimizer, 2 * STEPS))


@miniature("lr-scale", "timm#2532 without a plan: the groups alone say what was asked", "0.")
def lr_scale_ignored_without_a_plan():
    model = make_model()
    groups = [{"params": [p], "lr_scale": 0.5**i} for i, p in enumerate(reversed(list(model.parameters())))]
    return audited(model, torch.optim.AdamW(groups, lr=1e-2))


@miniature("ratio", "ViTPose_pytorch#20: layer decay is multiplied in at every step and takes the rates to 0", "0.")
def layer_decay_at_every_step():
    model, plan, optimizer = planned()
    factors = [group["lr"] / 1e-2 for group in optimizer.param_groups]

    def decay():
        for group, factor in zip(optimizer.param_groups, factors, strict=True):
            group["lr"] *= factor

    return audited(model, optimizer, plan, after=decay)


@miniature("rate", "electra#64, electra#51: the head's depth counts a layer that is gone", "0.")
def depth_off_by_one():
    model = make_model()
    plan = param_groups(model, lr=1e-2, scale=[LayerDecay(0.8)])
    depths = {0: 3, 2: 2, 4: 0}  # from the head; the right ones are 2, 1 and 0
    groups = [{"params": list(model[i].parameters()), "lr": 1e-2 * 0.8**depth} for i, depth in depths.items()]
    return audited(model, torch.optim.AdamW(groups, weight_decay=0.0), plan)


@miniature("warm-up", "DeepSpeed#7969: before its start the warm-up hands out one rate, for group 0", "0.weight")
def warmup_of_group_0():
    model, plan, optimizer = planned()

    def train():
        full = optimizer.param_groups[0]["lr"]
        for step, batch in enumerate(batches()):
            optimizer.param_groups[0]["lr"] = full * min(1.0, (step + 1) / 5)
            backward(model, batch)
            optimizer.step()

    return audited(model, optimizer, plan, train=train)


@miniature("ratio", "CosineAnnealingLR(eta_min): an absolute floor pulls all rates towards one", "0.")
def absolute_floor():
    model, plan, optimizer = planned()
    scheduler = CosineAnnealingLR(optimizer, STEPS, eta_min=2e-3)
    return audited(model, optimizer, plan, scheduler=scheduler)


@miniature("rate-zero", "a second warm-up takes the first one's zero as its base", "0.")
def scheduler_built_at_zero():
    model, plan, optimizer = planned()
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
        group["lr"] = 0.0  # as the first step of a warm-up leaves it

    def train():
        bases = [group["lr"] for group in optimizer.param_groups]
        for step, batch in enumerate(batches()):
            for group, base in zip(optimizer.param_groups, bases, strict=True):
                group["lr"] = base * min(1.0, step / 4)
            backward(model, batch)
            optimizer.step()

    return audited(model, optimizer, plan, train=train)


@miniature("late", "the schedule is stepped after two optimizer steps: every rate comes one step late")
def schedule_lags():
    model, plan, optimizer = planned()
    shape = Shape(kind="linear", warmup=3)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]

    def train():
        for step, batch in enumerate(batches()):
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * shape.factor(max(0, step - 1), STEPS)
            backward(model, batch)
            optimizer.step()

    return audited(model, optimizer, plan, train=train, schedule=lambda step: shape.factor(step, STEPS))


@miniature("schedule", "the scheduler counts batches, the optimizer steps after four of them")
def schedule_counts_batches():
    model, plan, optimizer = planned()
    schedule = Schedule(optimizer, total_steps=STEPS, shape="linear")
    wanted = Shape(kind="linear")

    def train():
        for number, batch in enumerate(batches(4 * STEPS)):
            loss_of(model, batch).backward()
            if number % 4 == 3:
                optimizer.step()
                optimizer.zero_grad()
            schedule.step()

    return audited(model, optimizer, plan, train=train, schedule=lambda step: wanted.factor(step, STEPS))


@miniature("schedule", "rat-sql#45, apex#766: after a load the scheduler moves groups that nobody steps any more")
def scheduler_disconnected():
    model, plan, optimizer = planned()
    held = optimizer.param_groups
    bases = [group["lr"] for group in held]
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step = [0]

    def schedule():
        step[0] += 1
        for group, base in zip(held, bases, strict=True):
            group["lr"] = base * (1 - step[0] / STEPS)

    wanted = Shape(kind="linear")
    return audited(model, optimizer, plan, after=schedule, schedule=lambda step: wanted.factor(step, STEPS))


class LaggingAdamW(torch.optim.AdamW):
    """Rates are handed to the kernel after the step, for the next one."""

    def step(self):
        now = [group["lr"] for group in self.param_groups]
        for group, rate in zip(self.param_groups, self.__dict__.setdefault("handed", now), strict=True):
            group["lr"] = rate
        super().step()
        for group, rate in zip(self.param_groups, now, strict=True):
            group["lr"] = rate
        self.handed = now


@miniature("late", "rates are read before the scheduler sets them: each step uses the one before", "0.weight")
def optimizer_lags():
    model, plan, optimizer = planned(LaggingAdamW)
    schedule = Schedule(optimizer, total_steps=STEPS, shape=Shape(kind="linear", warmup=4, warmup_start=0.2))
    return audited(model, optimizer, plan, scheduler=schedule)


class IgnoringSGD(torch.optim.SGD):
    """Takes the rate it was made with, whatever the groups say."""

    def step(self):
        held = [group["lr"] for group in self.param_groups]
        for group in self.param_groups:
            group["lr"] = self.defaults["lr"]
        super().step()
        for group, rate in zip(self.param_groups, held, strict=True):
            group["lr"] = rate


@miniature("applied", "a captured step keeps the rate it was captured with", "0.weight")
def groups_ignored():
    model, plan, optimizer = planned(IgnoringSGD, lr=1e-3)
    return audited(model, optimizer, plan)


@miniature("applied", "a gradient that was negated twice: the optimizer climbs", "0.weight")
def uphill():
    class SGD(torch.optim.SGD):
        def step(self):
            for group in self.param_groups:
                group["lr"] = -group["lr"]
            super().step()
            for group in self.param_groups:
                group["lr"] = -group["lr"]

    model, plan, optimizer = planned(SGD)
    return audited(model, optimizer, plan)


@miniature("ratio", "a callback that was to lower all rates moves one group", "2.")
def one_group_creeps():
    model, plan, optimizer = planned()

    def creep():
        optimizer.param_groups[2]["lr"] *= 1.2

    return audited(model, optimizer, plan, after=creep)


# -- states ------------------------------------------------------------------------------------------------------------


@miniature("loaded", "examples#816, robosat#169: the checkpoint's rates override those asked for", "0.")
def resume_overrides():
    model, plan, optimizer = planned()
    old = torch.optim.AdamW([{**group, "lr": 1e-3} for group in plan.groups()])

    def train():
        fit(model, optimizer, steps=4)
        optimizer.load_state_dict(old.state_dict())
        fit(model, optimizer, steps=4)

    return audited(model, optimizer, plan, train=train)


@miniature("loaded", "pytorch#1489: state is loaded by position, so that reordered groups swap their rates", "0.")
def resume_swaps():
    model, plan, optimizer = planned()
    groups = plan.groups()
    saved = torch.optim.AdamW([groups[i] for i in (4, 5, 2, 3, 0, 1)]).state_dict()

    def train():
        optimizer.load_state_dict(saved)
        fit(model, optimizer)

    return audited(model, optimizer, plan, train=train)


@miniature("swapped", "two groups were given each other's rates", "0.")
def rates_swapped():
    model, plan, optimizer = planned()
    first, last = optimizer.param_groups[0], optimizer.param_groups[-2]
    first["lr"], last["lr"] = last["lr"], first["lr"]
    return audited(model, optimizer, plan)


# -- decay -------------------------------------------------------------------------------------------------------------


@miniature("decay-twice", "the trainer decays, and the optimizer too: between steps", "0.weight")
def decay_in_the_loop_too():
    model, plan, optimizer = planned()

    def decay():
        with torch.no_grad():
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])

    return audited(model, optimizer, plan, after=decay)


@miniature("decay-twice", "a wrapper decays, and the optimizer inside too", "0.weight")
def decay_in_the_wrapper_too():
    class Wrapped(torch.optim.AdamW):
        def step(self):
            with torch.no_grad():
                for group in self.param_groups:
                    for parameter in group["params"]:
                        parameter.mul_(1 - group["lr"] * group["weight_decay"])
            super().step()

    model, plan, optimizer = planned(Wrapped)
    return audited(model, optimizer, plan)


@miniature("decay-everywhere", "MEDS_EIC_AR#30: biases and norms were to be spared", "0.bias")
def biases_decay():
    model = make_model()
    plan = make_plan(model)
    groups = [{**group, "weight_decay": 0.1} for group in plan.groups()]
    return audited(model, torch.optim.AdamW(groups), plan)


@miniature("decay", "DeepSpeed#8440: the groups keep their rates, and get the configuration's decay", "0.weight")
def another_decay():
    model = make_model()
    plan = make_plan(model)
    groups = [{**group, "weight_decay": group["weight_decay"] and 0.01} for group in plan.groups()]
    return audited(model, torch.optim.AdamW(groups), plan)


@miniature("decay-lost", "the decay of the configuration does not reach the groups", "0.weight")
def decay_lost():
    model, plan, optimizer = planned()
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.0
    return audited(model, optimizer, plan)


# -- parameters --------------------------------------------------------------------------------------------------------


@miniature("no-group", "sd-scripts#890, HVPNeT#5: a part is trained in name only", "4.")
def part_in_no_group():
    model = make_model()
    optimizer = torch.optim.AdamW([*model[0].parameters(), *model[2].parameters()], lr=1e-3)
    return audited(model, optimizer)


@miniature("no-group", "MACE#525: a head is added after the optimizer was made", "6.")
def head_added_later():
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model.append(nn.ReLU())
    model.append(nn.Linear(2, 2))
    return audited(model, optimizer)


@miniature("strange-parameters", "pytorch#14467: the model is replaced after the optimizer was made")
def optimizer_of_an_old_model():
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model[4] = nn.Linear(12, 2)
    old = optimizer.param_groups[0]["params"][-2:]

    def train():
        for batch in batches():
            backward(model, batch)
            for parameter in old:
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step()

    return audited(model, optimizer, train=train)


@miniature("never-updated", "a part is left out of the loss", "0.")
def detached_part():
    model = make_model()
    body, optimizer = model[:2], torch.optim.AdamW(model.parameters(), lr=1e-3)

    def train():
        for x, y in batches():
            optimizer.zero_grad()
            (model[2:](body(x).detach()) - y).square().mean().backward()
            optimizer.step()

    return audited(model, optimizer, train=train)


@miniature("frozen-moves", "freezing late: the gradient that is left goes on being applied", "0.")
def frozen_with_a_gradient_left():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9)

    def train():
        fit(model, optimizer, steps=3)
        model[0].requires_grad_(False)
        for batch in batches(6):
            loss_of(model, batch).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)

    return audited(model, optimizer, train=train)


@miniature("not-frozen", "fast-reid#178: the plan freezes, the model does not know", "0.")
def freeze_not_applied():
    model = make_model()
    plan = make_plan(model, rules=[Rule("0", freeze=True)])
    optimizer = torch.optim.AdamW([{"params": list(model.parameters())}], lr=1e-2, weight_decay=0.0)
    return audited(model, optimizer, plan)


@miniature("twice", "two optimizers hold the same parameters, and both step", "4.")
def two_optimizers():
    model = make_model()
    first = torch.optim.AdamW(model.parameters(), lr=1e-3)
    second = torch.optim.SGD(model[4].parameters(), lr=1e-2)

    def train():
        for batch in batches():
            backward(model, batch)
            first.step()
            second.step()

    return audited(model, train=train)


@miniature("untied", "loading or sharding unties what was one weight", "0.weight")
def untied():
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Linear(6, 2))
    model[2].weight = model[0].weight
    plan = param_groups(model, lr=1e-2)
    model[2].weight = nn.Parameter(model[0].weight.detach().clone())
    return audited(model, torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0), plan)


@miniature("not-in-plan", "the head is replaced after the plan was made", "4.")
def plan_of_an_old_model():
    model = make_model()
    plan = make_plan(model)
    model[4] = nn.Sequential(nn.Linear(12, 4), nn.Linear(4, 2))
    groups = [{"params": list(model[i].parameters()), "lr": 1e-2} for i in (0, 2, 4)]
    return audited(model, torch.optim.AdamW(groups), plan)


@miniature("hidden", "bfloat16 weights at a small rate: every step is rounded away", "0.")
def rounded_away():
    model = make_model(torch.bfloat16)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
    return audited(model, torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.0), dtype=torch.bfloat16)
