"""Which optimizers of other libraries a rate plan drives: of those that are installed, written as a page.

::

    python -m benchmarks.optimizers_table --out docs/results/optimizers.md

Each optimizer gets the groups of a plan with two rates and steps a small network; then the same with the head's rate
doubled. *Driven* is what takes the groups, moves the head twice as far and the body as far as before.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import inspect
import io
import logging
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import nn

from lrdiff_bench.report.page import as_given, markdown_table, render
from lrdiff_bench.report.record import PageFiles, add_page_options
from lrdiff_bench.system.machine import provenance
from lrdiff_core.errors import RateError
from lrdiff_core.rates import MuonRouter, Rule, param_groups

LIBRARIES = {  # distribution: the module that holds the classes
    "torch": "torch.optim",
    "pytorch_optimizer": "pytorch_optimizer",
    "schedulefree": "schedulefree",
    "torchao": "torchao.optim",
    "bitsandbytes": "bitsandbytes.optim",
    "heavyball": "heavyball",
    "prodigyopt": "prodigyopt",
    "lion_pytorch": "lion_pytorch",
    "galore_torch": "galore_torch",
    "transformers": "transformers",
}
OPTIMIZERS: Mapping[str, Any] = {"format": "lrdiff.optimizers_table", "version": 1}
NEARLY = 0.05  # of the ratio: float32, stochastic rounding of 8-bit states
STEPS = 10  # at most, until something moves: some warm up
ADAM = torch.optim.Adam
ARGUMENTS: dict[str, dict[str, Any]] = {  # beside the groups, where a class does not do without
    "transformers.Adafactor": {"relative_step": False, "scale_parameter": False},
    "pytorch_optimizer.SAM": {"base_optimizer": ADAM},
    "pytorch_optimizer.GSAM": {"base_optimizer": ADAM},
    "pytorch_optimizer.Ranger21": {"num_iterations": 10},
    "pytorch_optimizer.BSAM": {"num_data": 32},
    "galore_torch.GaLoreAdafactor": {"relative_step": False, "scale_parameter": False},
    **{
        f"bitsandbytes.{name}{bits}": {"lr": 1e-3, "momentum": 0.9}
        for name in ("LARS", "SGD")
        for bits in ("", "8bit", "32bit")
    },
}
ROUTED = (
    "AdaGO",
    "AdaMuon",
    "DistributedMuon",
    "Muon",
    "MuonClip",
    "NorMuon",
)  # of pytorch_optimizer: ask for use_muon


@dataclass(frozen=True)
class Outcome:
    """What came of one optimizer.

    Args:
        name: library and class.
        verdict: ``driven``, ``takes the groups`` (and moves by a scale of its own) or ``not driven``.
        head: how much further the head went at twice its rate.
        body: how much further the body went meanwhile.
        note: why not.
    """

    name: str
    verdict: str
    head: float = math.nan
    body: float = math.nan
    note: str = ""


def classes_of(library: str) -> dict[str, type[torch.optim.Optimizer]]:
    """The optimizer classes that a library hands out, by name; empty where it cannot be imported."""
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            module = importlib.import_module(LIBRARIES[library])
    except ImportError:
        return {}
    names = [name for name in dir(module) if not name.startswith("_")]
    if library == "transformers":
        names = ["Adafactor"]
    if library == "pytorch_optimizer":
        found = {kind.__name__: kind for kind in map(module.load_optimizer, module.get_supported_optimizers())}
    else:
        found = {name: getattr(module, name) for name in names}
    of_torch = {id(kind) for kind in vars(torch.optim).values()} if library != "torch" else set()
    return {
        name: kind
        for name, kind in found.items()
        if inspect.isclass(kind)
        and issubclass(kind, torch.optim.Optimizer)
        and kind is not torch.optim.Optimizer
        and id(kind) not in of_torch
    }


def drive(name: str, kind: type[torch.optim.Optimizer], arguments: Mapping[str, Any]) -> Outcome:
    """Step a network by a plan's groups, with the head's rate once and twice as high."""
    problem, routed = "", name in {f"pytorch_optimizer.{one}" for one in ROUTED}
    for how in ("plain", "closure", "graph"):
        try:
            once, twice = (_moved(kind, arguments, factor, how, routed) for factor in (1.0, 2.0))
        except Exception as error:  # noqa: BLE001  # whatever somebody else's optimizer raises is its answer
            problem = problem or f"{type(error).__name__}: {error}".splitlines()[0]
            if isinstance(error, RateError):
                break
            continue
        head, body = (after / before if before else math.nan for before, after in zip(once, twice, strict=True))
        driven = abs(head / 2 - 1) < NEARLY and abs(body - 1) < NEARLY
        note = "" if driven else "the update has a scale of its own" if head > 0 else "nothing moved"
        if how != "plain":
            note = "; ".join(
                filter(None, [note, {"closure": "wants a closure", "graph": "wants create_graph=True"}[how]])
            )
        return Outcome(name, "driven" if driven else "takes the groups", head, body, note)
    return Outcome(name, "not driven", note=problem)


def _moved(
    kind: type[torch.optim.Optimizer], arguments: Mapping[str, Any], factor: float, how: str, routed: bool
) -> tuple[float, float]:
    """How far the head and the body went in the first step that moves anything."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 8))
    x, y = torch.randn(32, 16), torch.randn(32, 8)
    rules, router = [Rule("4", lr_mult=factor)], MuonRouter(lr=1e-3) if routed else None
    plan = param_groups(model, lr=1e-3, rules=rules, router=router)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        optimizer = kind(plan.groups(kind, **arguments), **arguments)
        plan.verify(optimizer)
        if callable(getattr(optimizer, "train", None)):
            optimizer.train()

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = (model(x) - y).square().mean()
            loss.backward(create_graph=how == "graph")
            return loss

        before = [parameter.detach().clone() for parameter in model.parameters()]
        for _ in range(STEPS):
            if how == "closure":
                optimizer.step(closure)
            else:
                closure()
                optimizer.step()
            parts = [(new - old).norm().item() for new, old in zip(model.parameters(), before, strict=True)]
            if any(parts):
                break
    head, body = math.hypot(*parts[4:]), math.hypot(*parts[:4])
    if not (math.isfinite(head) and math.isfinite(body)):
        raise FloatingPointError("the update is not finite")
    return head, body


def outcomes(library: str) -> Iterator[Outcome]:
    """What came of every optimizer of a library."""
    for name, kind in sorted(classes_of(library).items(), key=lambda pair: pair[0].lower()):
        full = f"{library}.{name}"
        yield drive(full, kind, ARGUMENTS.get(full, {}))


def page(document: Mapping[str, Any]) -> str:
    """The table as Markdown."""
    lines = [
        "# Optimizers that a rate plan drives",
        "",
        render("written_by.md", **document).rstrip(),
        "",
        "Each optimizer that was installed gets the groups of a plan (`plan.groups(TheOptimizer)`), steps a network",
        "of 3 layers, and does so again with the head's rate doubled. *Driven*: the head went twice as far, the body",
        "as before (within 5 %). *Takes the groups*: it runs by them, but its update has a scale of its own (rates",
        "that the method estimates, trust ratios, clipping). Compilation was off (`TORCHDYNAMO_DISABLE=1`).",
        "",
        "| library | version | optimizers | driven | takes the groups | not driven |",
        "|---|---|---|---|---|---|",
    ]
    verdicts = ("driven", "takes the groups", "not driven")
    found = [(one["name"], one["version"], [Outcome(**row) for row in one["rows"]]) for one in document["libraries"]]
    for library, number, rows in found:
        counts = [sum(row.verdict == verdict for row in rows) for verdict in verdicts]
        lines.append(f"| {library} | {number} | {len(rows)} | {' | '.join(map(str, counts))} |")
    if document["missing"]:
        lines += ["", f"Not installed: {', '.join(document['missing'])}."]
    for library, _, rows in found:
        driven = [row.name.partition(".")[2] for row in rows if row.verdict == "driven" and not row.note]
        lines += ["", f"## {library}", "", f"Driven: {', '.join(driven) or 'none'}."]
        others = [row for row in rows if row.verdict != "driven" or row.note]
        if others:
            heads = ["optimizer", "verdict", "head", "body", "note"]
            lines += ["", markdown_table(heads, [_cells(row) for row in others])]
    return "\n".join(lines) + "\n"


def _cells(row: Outcome) -> list[str]:
    moved = ["" if one is None else f"{one:.3g}" for one in (row.head, row.body)]  # None where it did not step
    return [row.name.partition(".")[2], row.verdict, *moved, row.note[:160]]


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "?"


def main() -> None:
    """Write the page, or print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_page_options(parser)
    parser.add_argument("--library", action="append", choices=list(LIBRARIES), help="only this one; repeat it")
    options = parser.parse_args()
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # the update is what is asked about, not how it is compiled
    logging.disable(logging.WARNING)

    def measured() -> dict[str, Any]:
        where = provenance()
        found = {library: [asdict(one) for one in outcomes(library)] for library in options.library or LIBRARIES}
        libraries = [{"name": name, "version": _version(name), "rows": rows} for name, rows in found.items() if rows]
        missing = [name for name, rows in found.items() if not rows]
        return {"command": as_given(), "quick": False, **where, "libraries": libraries, "missing": missing}

    files = PageFiles.of(options)
    text = page(files.document(measured, **OPTIMIZERS))
    files.write(text) if files.out is not None else print(text, end="")


if __name__ == "__main__":
    main()
