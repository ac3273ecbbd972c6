"""``MODULE:FACTORY``: a model of the user's own, by one grammar and one contract in every command.

``MODULE`` is importable from the current folder; what follows the colon is a name in it, with dots where it lies
deeper (``mods:Zoo.net``). It is a function or a class that takes no arguments, or the finished thing itself, and gives

========================= ========================================================================================
``module``                enough for `lrdiff rates` and `lrdiff study --model`
``module, example``       one batch as the module takes it: a tensor, a tuple, or a mapping of forward's arguments;
                          enough for `export` and `parity`, too
``module, example, more`` a mapping with ``rows`` and ``targets``, or ``train`` (a Dataset or DataLoader; also
                          ``validation``, ``test``): enough for `run`, `train`, `lr-find` and `map`, too; and of
                          arguments of :func:`lrdiff_export.export` and :func:`lrdiff_export.training.make_job`
``module, more``          the same without an example, where ``rows`` or ``train`` show what the module takes
``MapWorkload``           `lrdiff map` only: rows and weights that differ from seed to seed
========================= ========================================================================================

With ``--data FILE`` the rows of a table take the place of those of the factory, and ``module`` is enough.
Each command takes what it needs. What the user's code prints goes to stderr, so that ``--json`` stays one document.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache, reduce
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lrdiff_bench.system.batches import Part, TensorPart, as_part, stacked
from lrdiff_bench.system.named_code import keep_named
from lrdiff_bench.system.user_code import one_line, their_fault, user_code
from lrdiff_core.errors import InputError
from lrdiff_core.text import nearest

if TYPE_CHECKING:
    from lrdiff_export.training import TrainingJob

__all__ = [
    "GRAMMAR",
    "UserModel",
    "as_model",
    "default_loss",
    "find",
    "is_factory",
    "load_model",
    "make",
    "their_fault",
    "training_job",
    "user_code",
]

GRAMMAR = "package.module:factory"
STEPS = 50  # of a training whose factory names no number
PARTS = ("train", "validation", "test")
MOST_ROWS = 2048  # of a Dataset that commands take which want all rows at once


@dataclass(frozen=True, kw_only=True)
class UserModel:
    """What a factory gave.

    Attributes:
        source: ``MODULE:FACTORY``.
        module: with its first weights.
        example: a batch as the module takes it; None where none was given.
        options: further arguments by name.
    """

    source: str
    module: nn.Module
    example: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def export_options(self) -> dict[str, Any]:
        """Those of the options that an export takes."""
        return {name: value for name, value in self.options.items() if name in _export_options()}

    def own_loss(self) -> Callable[[Any, Any], Tensor] | None:
        """The option ``loss``; left out, cross-entropy where targets are whole numbers, else None: squared error."""
        given: Callable[[Any, Any], Tensor] | None = self.options.get("loss")
        targets = self.options.get("targets")
        whole = isinstance(targets, Tensor) and not targets.is_floating_point()
        return default_loss if given is None and whole else given

    def parts(self) -> dict[str, Part]:
        """The rows to learn from (``train``), and those of other splits where the factory gives them.

        Raises:
            InputError: there are none, or not in a form that can be gone through.
        """
        given = {name: self.options[name] for name in PARTS if self.options.get(name) is not None}
        if "train" in given:
            return {name: as_part(one, self.source) for name, one in given.items()}
        if given:
            raise InputError(f"{self.source} gives {next(iter(given))} and no train", help="give 'train', too")
        if self.options.get("rows") is None or self.options.get("targets") is None:
            raise InputError(
                f"{self.source} gives nothing to learn from",
                help="return module, example, {'train': a Dataset}, or {'rows': ..., 'targets': ...}; "
                "or name a table with --data",
            )
        rows, targets = self.rows(), self.options["targets"]
        if len(targets) != len(rows[0]):
            raise InputError(
                f"{self.source} gives {len(rows[0])} rows and {len(targets)} targets", help="give one target a row"
            )
        inputs = dict(zip(self.example, rows, strict=True)) if isinstance(self.example, Mapping) else tuple(rows)
        return {"train": TensorPart(inputs=inputs, targets=torch.as_tensor(targets))}

    def rows(self) -> list[Tensor]:
        """The rows to train on, one tensor an input: the option ``rows``, or the example."""
        from lrdiff_export.model.signature import as_arrays

        return [torch.from_numpy(one) for one in as_arrays(_plain(self.options.get("rows", self.example)))]


def default_loss(outputs: Any, targets: Any) -> Tensor:
    """Cross-entropy where targets are whole numbers, else the squared error, of the first output."""
    first = next(iter(outputs.values())) if isinstance(outputs, Mapping) else outputs
    first = first if isinstance(first, Tensor) else first[0]
    if not isinstance(targets, Tensor):
        raise InputError(
            f"targets are {type(targets).__name__}, and the factory gives no loss", help="add 'loss': a function of "
            "outputs and targets"
        )  # fmt: skip
    if not targets.is_floating_point():
        return nn.functional.cross_entropy(first, targets.long())
    if first.shape != targets.shape:
        raise InputError(
            f"outputs have the shape {list(first.shape)}, targets {list(targets.shape)}",
            help="make them alike, or add 'loss': a function of outputs and targets",
        )
    return nn.functional.mse_loss(first, targets.to(first.dtype))


def is_factory(target: str) -> bool:
    """Whether ``target`` names a factory, not a folder or a file."""
    return ":" in target and not Path(target).exists()  # C:\runs\seed exists, or is refused as a module


def make(source: str, *, folder: str | None = None) -> Any:
    """What the factory gives, of whatever type.

    Args:
        source: ``MODULE:FACTORY``.
        folder: as for :func:`user_code`.

    Raises:
        InputError: no such module or factory, or the user's code raises.
    """
    found = find(source, folder=folder)
    if not callable(found) or isinstance(found, nn.Module):
        return found
    with user_code(folder):
        return _call(found, source)


def find(source: str, *, folder: str | None = None) -> Any:
    """What ``MODULE:NAME`` names, not called.

    Args:
        source: ``MODULE:NAME``.
        folder: as for :func:`user_code`.

    Raises:
        InputError: no such module or name, or the user's code raises.
    """
    module_name, colon, path = source.partition(":")
    if not colon:
        raise InputError(f"{source} names no factory", help=f"write {GRAMMAR}")
    with user_code(folder):
        module = _import(module_name, path)
        keep_named(source)
        try:
            return reduce(getattr, path.split("."), module)
        except AttributeError:
            makers = [name for name in _makers(module) if not name.startswith("_")]
            raise InputError(
                f'module {module_name} has no "{path}"',
                help=nearest(path, makers, "it has") if makers else f"define a function {path or 'make'}() there",
            ) from None
        except Exception as problem:  # a property of the user's
            raise their_fault(source, problem) from problem


def load_model(source: str, *, needs: Sequence[str] = (), folder: str | None = None) -> UserModel:
    """The model that a factory gives.

    Args:
        source: ``MODULE:FACTORY``.
        needs: what the caller cannot do without: ``"example"``, or the name of an option such as ``"targets"``.
        folder: as for :func:`user_code`.

    Raises:
        InputError: as :func:`make`; what is given breaks the contract at the top, or lacks what is needed.
    """
    return as_model(source, make(source, folder=folder), needs=needs)


def as_model(source: str, made: Any, *, needs: Sequence[str] = ()) -> UserModel:
    """What :func:`make` gave, checked as :func:`load_model` does."""
    parts = made if isinstance(made, tuple) else (made,)
    if not 1 <= len(parts) <= 3 or not isinstance(parts[0], nn.Module):
        given = f"({', '.join(type(part).__name__ for part in parts)})" if isinstance(made, tuple) else _type_of(made)
        raise InputError(
            f"{source} gives {given}, not a torch.nn.Module",
            help="return module, or module, example, or module, example, {'targets': ...}",
        )
    if len(parts) == 2 and isinstance(parts[1], Mapping) and {"train", "targets"} & set(parts[1]):
        parts = (parts[0], None, parts[1])
    module, example, options = (*parts, None, None)[:3]
    options = {} if options is None else options
    if not isinstance(options, Mapping):
        raise InputError(f"{source} gives options of type {type(options).__name__}", help="give them as a dict")
    known = list(dict.fromkeys([*PARTS, *_export_options(), *_training_options()]))
    if unknown := [name for name in options if name not in known]:
        raise InputError(f"{source} gives the option {unknown[0]!r}", help=nearest(str(unknown[0]), known, "options"))
    options = dict(options)
    if options.get("targets") is not None:
        options["targets"] = torch.as_tensor(options["targets"])
    if needs and options.get("train") is not None:
        some = stacked(as_part(options["train"], source), MOST_ROWS)
        example = _first_two(some.example()) if example is None else example
        if options.get("rows") is None and isinstance(some.targets, Tensor):
            options |= {"rows": some.example(), "targets": some.targets}
    if example is None and options.get("rows") is not None:
        example = _first_two(options["rows"])
    missing = [name for name in needs if (example if name == "example" else options.get(name)) is None]
    if missing:
        more = "".join(f", {{{name!r}: ...}}" for name in missing if name != "example")
        raise InputError(f"{source} gives no {missing[0]}", help=f"return module, example{more}")
    arrays = {name: _plain(options[name]) for name in ("rows", "labels") if options.get(name) is not None}
    return UserModel(source=source, module=module, example=example, options={**options, **arrays})


def training_job(
    model: UserModel, rows: Sequence[Tensor] | None = None, targets: Tensor | None = None, *, steps: int = STEPS
) -> TrainingJob:
    """The training of a user's model: rows, targets, loss, plan, optimizer.

    Args:
        model: of :func:`load_model`.
        rows: one tensor an input, in place of the model's own.
        targets: that go with them.
        steps: unless the model names another number.

    Raises:
        InputError: it cannot be trained on these rows.
    """
    from lrdiff_export.training import make_job

    options = {name: value for name, value in model.options.items() if name in _training_options()}
    if targets is not None:
        options["targets"] = targets
    options["loss"] = model.own_loss()
    try:
        return make_job(
            model.module, model.rows() if rows is None else rows, name=model.source, **{"steps": steps, **options}
        )
    except (TypeError, ValueError) as problem:
        raise InputError(
            f"{model.source} gives something that cannot be trained: {one_line(problem)}",
            help="see docs/guide/your-model.md for what a factory returns",
        ) from problem


def _import(name: str, path: str) -> ModuleType:
    dotted = name.removesuffix(".py").replace("/", ".").replace("\\", ".").strip(".")
    if not all(part.isidentifier() for part in name.split(".")) or name.endswith(".py"):
        write = dotted if all(part.isidentifier() for part in dotted.split(".")) else "package.module"
        raise InputError(f'"{name}" is not the name of a module', help=f"write {write}:{path or 'factory'}")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as problem:
        missing = problem.name or ""
        if name != missing and not name.startswith(f"{missing}."):
            raise their_fault(f"import {name}", problem) from problem  # it is there, and misses something itself
        files = sorted(file.stem for file in Path.cwd().glob("*.py"))
        shown = nearest(name, files, "modules here") if files else "there is no Python file in the current folder"
        raise InputError(f"there is no module {missing}", help=shown) from None
    except (Exception, SystemExit) as problem:
        raise their_fault(f"import {name}", problem) from problem


def _call(found: Any, source: str) -> Any:
    try:
        inspect.signature(found).bind()
    except TypeError as problem:
        raise InputError(
            f"{source} cannot be called without arguments: {problem}",
            help="name a function without arguments that makes the model",
        ) from None
    except ValueError:
        pass  # a signature that Python cannot tell
    try:
        return found()
    except (Exception, SystemExit) as problem:
        raise their_fault(source, problem) from problem


@cache
def _export_options() -> tuple[str, ...]:
    from lrdiff_export.publish.request import ExportOptions

    return ("rows", *(one.name for one in fields(ExportOptions)))


@cache
def _training_options() -> tuple[str, ...]:
    from lrdiff_export.training import make_job

    return tuple(name for name in inspect.signature(make_job).parameters if name not in ("module", "inputs", "name"))


def _makers(module: ModuleType) -> list[str]:
    """Names in a module that could make a model, or are one: functions, classes, models, workloads."""
    names = []
    for name, value in vars(module).items():
        own = getattr(value, "__module__", None) == module.__name__
        ready = isinstance(value, nn.Module) or type(value).__module__.startswith("lrdiff_")
        if ready or (own and (inspect.isfunction(value) or inspect.isclass(value))):
            names.append(name)
    return names


def _plain(rows: Any) -> Any:
    """Tensors as arrays, in whatever they come: alone, in a sequence, in a mapping."""
    if isinstance(rows, Tensor):
        return rows.detach().cpu().numpy()
    if isinstance(rows, Mapping):
        return {key: _plain(one) for key, one in rows.items()}
    return tuple(map(_plain, rows)) if isinstance(rows, tuple | list) else rows


def _type_of(value: Any) -> str:
    return f"{value!r:.60} of type {type(value).__name__}"


def _first_two(rows: Any) -> Any:
    """The first two rows of each input, as an example."""
    if isinstance(rows, Mapping):
        return {name: _first_two(one) for name, one in rows.items()}
    return tuple(map(_first_two, rows)) if isinstance(rows, tuple | list) else torch.as_tensor(rows[:2])
