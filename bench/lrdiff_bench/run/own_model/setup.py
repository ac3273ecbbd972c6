"""Everything before the first step of a model of one's own: its rows in three parts, its rates, its loss."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from lrdiff_bench.run.own_model.on_table import OnTable
from lrdiff_bench.run.own_model.tasks import OwnTask, find_task, first_output, loss_fault
from lrdiff_bench.system.batches import BATCH_SIZE, Batch, BlocksPart, Part, TensorPart, stacked
from lrdiff_bench.system.factory import UserModel, load_model
from lrdiff_bench.system.rate_settings import plan_from_settings
from lrdiff_bench.system.user_code import one_line
from lrdiff_core.config import RunConfig
from lrdiff_core.data import Table
from lrdiff_core.devices import choose_device
from lrdiff_core.errors import ConfigError, InputError, LrdiffError, RateError
from lrdiff_core.loop import loss_function, score_name
from lrdiff_core.optimizers import OPTIMIZERS
from lrdiff_core.population.members import build
from lrdiff_core.rates import LayerDecay, MuonRouter, RatePlan, param_groups
from lrdiff_core.seeds import make_generator
from lrdiff_core.setup import Setup, set_up

__all__ = [
    "Development",
    "OwnSetup",
    "order_of",
    "share_of",
    "has_table",
    "set_up_own",
]

DECAY = 0.8  # of a plan that nobody gave
HELD_ROWS = 256  # test rows that files and backends are compared on
OF_THE_NETWORK = ("hidden", "dropout", "compile", "cv")  # settings of the project's own network
OF_TABLES = ("target", "task", "impute", "groups", "time", "class_weight")


@dataclass(frozen=True, kw_only=True)
class OwnSetup:
    """Everything decided before the first step.

    Attributes:
        config: resolved.
        user: what the factory gave.
        module: that is trained, on ``device``.
        shipped: that is exported: ``module`` itself, or with a table's preprocessing around it.
        plan: of ``module``.
        parts: rows of ``train``, ``validation`` and ``test``, as ``module`` takes them.
        held: some test rows as ``shipped`` takes them, on the CPU.
        task: loss and score.
        table: the table's own setup, with ``--data``.
        split_by: ``"the factory"``, or ``"seed"`` where parts were cut from one.
        epochs, patience: as for a table.
    """

    config: RunConfig
    user: UserModel
    module: nn.Module
    shipped: nn.Module
    plan: RatePlan
    parts: Mapping[str, Part]
    held: Batch
    task: OwnTask
    device: torch.device
    table: Setup | None
    split_by: str
    batch_size: int
    epochs: int
    patience: int

    @property
    def steps_an_epoch(self) -> int | None:
        """None where a stream does not say how many rows it has."""
        rows = self.parts["train"].rows
        return None if rows is None else -(-rows // self.batch_size)

    @property
    def rates(self) -> dict[str, float]:
        """Rate of every group that learns, by its readable name."""
        return {group["name"]: group["lr"] for group in self.groups()}

    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups that learn, frozen parameters left out."""
        found = []
        for group in self.plan.groups():
            pairs = [(p, n) for p, n in zip(group["params"], group["param_names"], strict=True) if p.requires_grad]
            if pairs:
                found.append({**group, "params": [p for p, _ in pairs], "param_names": [n for _, n in pairs]})
        return found


def has_table(config: RunConfig) -> bool:
    """Whether a run of a model of one's own is on a table, not on what its factory gives."""
    return "data" in config.model_fields_set and bool(config.data)


@dataclass(frozen=True, kw_only=True)
class Development:
    """Rows that rates are compared on: none of the run's own test rows, which no choice may see.

    Attributes:
        table: of them, with ``--data``.
        parts: else; what is missing of the three is cut anew for every seed.
        epochs: of a training on them; None for as many as the run has.
    """

    table: Table | None = None
    parts: Mapping[str, Part] = field(default_factory=dict)
    epochs: int | None = None


def set_up_own(config: RunConfig, *, seed: int | None = None, rows: Development | None = None) -> OwnSetup:
    """Make the model, its rows, its plan and its loss, and check that they fit together.

    Args:
        config: with ``model``.
        seed: in place of the configured one.
        rows: in place of all that there are.

    Raises:
        InputError: the factory fails, or gives nothing that can be trained.
        ConfigError: a setting that a model of one's own does not have.
        RateError: the rates do not fit the model.
    """
    assert config.model is not None
    given = config.model_fields_set
    _check_settings(config)
    seed = config.seed if seed is None else seed
    made: list[UserModel] = []

    def factory(_: int) -> nn.Module:
        made.append(load_model(str(config.model)))
        return made[0].module

    module = copy.deepcopy(build(factory, seed))
    user = replace(made[0], module=module)
    if not any(p.requires_grad for p in module.parameters()):
        raise InputError(
            f"{config.model} gives a model with nothing to train", help="give it parameters with requires_grad"
        )
    device = choose_device(config.device)
    table = None
    if has_table(config):
        table = set_up(
            config.load_table() if rows is None or rows.table is None else rows.table,
            config.model_copy(update={"rates": None, "hidden": (1,), "optimizer": "adam", "device": "cpu"}),
            seed=seed,
        )
        whole = {
            name: TensorPart(inputs=(table.rows.inputs[name],), targets=table.rows.targets[name])
            for name in ("train", "validation", "test")
        }
        parts: dict[str, Part] = dict(whole)
        if table.rows.blocks is not None and table.rows.streamed_rows is not None:
            parts["train"] = BlocksPart(sample=whole["train"], blocks=table.rows.blocks, rows=table.rows.streamed_rows)
        split_by = "seed"
    else:
        parts, split_by = _split(user.parts() if rows is None else rows.parts, config, seed)
    size = config.batch_size or user.options.get("batch_size") or parts["train"].batch_size
    if size is None:
        count = parts["train"].rows
        size = BATCH_SIZE if count is None else config.rows_per_step(count)
    module.train()
    task = _task(user, module, parts["train"], table, device)
    shipped = module if table is None else OnTable(table.net.cpu(), module)
    held = stacked(parts["test"], HELD_ROWS)
    if table is not None:
        raw = torch.from_numpy(table.rows.table.features[table.rows.split.test[:HELD_ROWS]])
        held = Batch(inputs=(raw,), targets=held.targets)
    optimizer = config.optimizer if "optimizer" in given else user.options.get("optimizer", config.optimizer)
    config = config.model_copy(update={"optimizer": optimizer})
    plan = _plan(module, user, config).apply_freeze(statistics="stop")
    epochs, patience = _length(config, user, parts["train"].rows, size)
    resolved = config.model_copy(
        update={"batch_size": size, "epochs": epochs, "device": str(device), "seed": seed}
        | ({"task": table.rows.table.task} if table is not None else {"data": ""})
    )
    return OwnSetup(
        config=resolved,
        user=user,
        module=module.to(device),
        shipped=shipped,
        plan=plan,
        parts=parts,
        held=held,
        task=task,
        device=device,
        table=table,
        split_by=split_by,
        batch_size=size,
        epochs=epochs,
        patience=patience,
    )


def _check_settings(config: RunConfig) -> None:
    """Refuse settings that would have no effect."""
    given = {key for key in config.model_fields_set if getattr(config, key) not in (None, 0.0, False)}
    if wrong := [key for key in OF_THE_NETWORK if key in given]:
        raise ConfigError(
            f"{wrong[0]} is set, and {config.model} is a model of its own",
            help=f"leave {wrong[0]} out: it is for the project's network",
        )
    if has_table(config):
        return
    default = RunConfig()
    wrong = [key for key in OF_TABLES if key in given and getattr(config, key) != getattr(default, key)]
    wrong += ["test"] if isinstance(config.test, str) else []
    if wrong:
        raise ConfigError(
            f"{wrong[0]} is set, and {config.model} brings its own rows", help="leave it out, or name a table as data"
        )


def _length(config: RunConfig, user: UserModel, rows: int | None, size: int) -> tuple[int, int]:
    """Most epochs, and patience."""
    steps = user.options.get("steps")
    if config.epochs is None and steps is not None and rows is not None:
        config = config.model_copy(update={"epochs": max(1, -(-int(steps) // -(-rows // size)))})
    sized = config.model_copy(update={"batch_size": size})
    known = rows if rows is not None else 100 * size  # a stream does not say
    return sized.most_epochs(known), sized.epochs_of_patience(known)


def _split(given: Mapping[str, Part], config: RunConfig, seed: int) -> tuple[dict[str, Part], str]:
    """Three parts: those that the factory gives, and what is missing of them cut from ``train``."""
    parts = dict(given)
    missing = [name for name in ("validation", "test") if name not in parts]
    if not missing:
        return parts, "the factory"
    whole = parts["train"]
    if whole.rows is None:
        whole.subset(torch.arange(0))  # refuses
    rows = int(whole.rows or 0)
    wanted = {name: share_of(whole, getattr(config, name)) for name in missing}
    if sum(wanted.values()) >= rows:
        raise InputError(
            f"{rows} rows cannot be split into train, {' and '.join(missing)}", help="give more rows, or the parts"
        )
    order, begin = order_of(whole, seed), 0
    for name, count in wanted.items():
        parts[name] = whole.subset(order[begin : begin + count].sort().values)
        begin += count
    parts["train"] = whole.subset(order[begin:].sort().values)
    return parts, "seed"


def share_of(part: Part, share: Any) -> int:
    """How many rows a share of a part is."""
    return max(1, round((part.rows or 0) * float(share)))


def order_of(part: Part, seed: int) -> Tensor:
    """Rows by number in the order in which they are dealt out: validation, test, train."""
    return torch.randperm(part.rows or 0, generator=make_generator(seed, "split"))


def _task(user: UserModel, module: nn.Module, part: Part, table: Setup | None, device: torch.device) -> OwnTask:
    """Run the model once on its first rows: what cannot be trained is refused here, with the reason."""
    try:
        batch = stacked(part, 2)
    except LrdiffError:
        raise
    training = module.training
    still = copy.deepcopy(module).eval()
    try:
        with torch.no_grad():
            outputs = batch.answer(still)
    except Exception as problem:  # whatever the user's own code raises
        shapes = ", ".join(str(list(one.shape)) for one in batch.tensors())
        raise InputError(
            f"{user.source} does not take its rows ({shapes}): {one_line(problem)[:200]}",
            help="give rows as float32"
            if "dtype" in str(problem)
            else "let forward take what a batch has as inputs; see docs/guide/your-model.md",
        ) from problem
    finally:
        module.train(training)
    if table is not None:
        task, spec = table.rows.table.task, table.net.spec
        first = first_output(outputs)
        if not isinstance(outputs, Tensor) or first is None or tuple(first.shape) != (batch.rows, spec.outputs):
            got = list(first.shape) if isinstance(outputs, Tensor) and first is not None else type(outputs).__name__
            raise InputError(
                f"{user.source} maps [{batch.rows}, {batch.tensors()[0].shape[1]}] to {got}",
                help=f"a {task} task over this table needs [rows, {spec.outputs}], without a sigmoid or softmax",
            )
        weight = table.rows.class_weight
        loss = user.options.get("loss") or loss_function(task, None if weight is None else weight.to(device))
        return OwnTask(kind=task, loss=loss, score_name=score_name(task), classes=len(spec.classes))
    task_found = find_task(batch, outputs, user.options.get("loss"), user.options.get("score"))
    try:
        value = task_found.loss(outputs, batch.targets)
    except LrdiffError:
        raise
    except Exception as problem:
        raise loss_fault(user.source, task_found, outputs, batch.targets, problem) from problem
    if not isinstance(value, Tensor) or value.ndim != 0:
        got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise InputError(f"the loss of {user.source} gives {got}", help="let it give the mean over rows, a scalar")
    return task_found


def _plan(module: nn.Module, user: UserModel, config: RunConfig) -> RatePlan:
    """The plan of ``[rates]``, else the factory's, else layer-wise decay."""
    rate = OPTIMIZERS[config.optimizer].rate  # of the last layer, where nobody gives one
    more: dict[str, Any] = {"weight_decay": config.weight_decay}
    if config.optimizer == "muon":
        base = float((config.rates or {}).get("lr", rate))
        more["router"] = MuonRouter(lr=base, options={"adjust_lr_fn": "match_rms_adamw"})
    if config.rates is not None:
        return plan_from_settings(module, {"lr": rate, **config.rates}, **more)
    plan = user.options.get("plan")
    if isinstance(plan, RatePlan):
        return plan.bind(module)
    try:
        return param_groups(module, lr=rate, scale=[LayerDecay(DECAY)], **more)
    except RateError:  # one layer, or none that can be told apart
        return param_groups(module, lr=rate, **more)
