"""Inputs that hypothesis makes up: whatever they are, they are taken, or refused in one line, within ten seconds."""

from __future__ import annotations

import contextlib
import io
import json
import string
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import strategies as some

from lrdiff_core.errors import LrdiffError

__all__ = ["KINDS", "fuzzed"]

LONGEST = 10.0  # seconds for one input

_words = some.text(max_size=12) | some.sampled_from(
    ["", "nan", "inf", "-1", "1e999", "../../x", "=cmd", "\x1b[2J", "a,b", '"']
)
_numbers = some.integers() | some.floats() | some.sampled_from([-1, 0, 1e300, 10**9, 10**400])
_values = some.recursive(
    some.none() | some.booleans() | _numbers | _words,
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(_words, inner, max_size=4),
    max_leaves=8,
)  # fmt: skip


def fuzzed(
    count: int, seed: int, scratch: Path, kinds: list[str] | None = None
) -> Iterator[tuple[str, int, list[str]]]:
    """Kind, number of inputs tried, and what was found.

    Args:
        count: inputs a kind.
        seed: of all of them.
        scratch: a folder.
        kinds: names of :data:`KINDS`; all of them.
    """
    for name in kinds or list(KINDS):
        yield name, *_tried(*KINDS[name](scratch), count, seed)


def _tried(strategy: Any, take: Callable[[Any], object], count: int, seed: int) -> tuple[int, list[str]]:
    tried, found = 0, []

    def once(one: Any) -> None:
        nonlocal tried
        tried += 1
        fault = _fault(take, one)
        if fault is not None:
            found.append(f"{fault} of {one!r:.300}")
            raise AssertionError(fault.partition(":")[0])  # one kind of fault, so that it can be made small

    run = hypothesis.settings(
        max_examples=count, deadline=None, database=None, report_multiple_bugs=False,
        suppress_health_check=list(hypothesis.HealthCheck), print_blob=False,
        phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
    )(hypothesis.seed(seed)(hypothesis.given(strategy)(once)))  # fmt: skip
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of hypothesis, that some inputs are long
            run()
    except (AssertionError, hypothesis.errors.Flaky):
        found[:] = found[-1:]  # the smallest
    return tried, found


def _fault(take: Callable[[Any], object], one: Any) -> str | None:
    begun = time.monotonic()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):  # notes of what is unchecked
            warnings.simplefilter("ignore")
            take(one)
    except LrdiffError as problem:
        if "\n" in problem.message or "\n" in problem.help:
            return f"more than a line: {problem.message!r:.200}"
    except BaseException as problem:
        if isinstance(problem, KeyboardInterrupt):
            raise
        where = traceback.extract_tb(problem.__traceback__)[-1]
        return (
            f"{type(problem).__name__}: {str(problem).splitlines()[:1]} at {Path(where.filename).name}:{where.lineno}"
        )
    seconds = time.monotonic() - begun
    return f"{seconds:.1f} s" if seconds > LONGEST else None


def _configurations(scratch: Path) -> tuple[Any, Callable[[Any], object]]:
    from lrdiff_core.config import CompareConfig, RunConfig, make_config

    keys = some.sampled_from([*RunConfig.model_fields, "epoch"])
    compare = some.dictionaries(some.sampled_from([*CompareConfig.model_fields, "x"]), _values, max_size=3)
    return some.dictionaries(keys, _values | compare, max_size=4), make_config


def _settings_files(scratch: Path) -> tuple[Any, Callable[[Any], object]]:
    from lrdiff_core.config import RunConfig, load_config, make_config

    lines = some.tuples(
        some.sampled_from([*RunConfig.model_fields, "[rates]", "[compare]", "[[", "'", "layer1"]),
        some.sampled_from([" = ", "=", ".", ""]),
        some.text(max_size=20) | some.sampled_from(["0.1", "[5]", '"seed"', "true", "{}", "1_000", "nan", "[" * 3000]),
    ).map("".join)
    file = scratch / "fuzz.toml"

    def take(text: str) -> object:
        file.write_text(text, encoding="utf-8", errors="surrogatepass")
        return make_config(load_config(file))

    return some.lists(lines, max_size=6).map("\n".join), take


def _tables(scratch: Path) -> tuple[Any, Callable[[Any], object]]:
    from lrdiff_core.data import load_table

    cell = some.one_of(
        some.integers(-5, 5).map(str), some.floats().map(str), _words,
        some.sampled_from(["1.234,50 €", "12%", "(5)", "2024-02-30", "31/12/1999", "true", "NA", "\x00", "yes", "١"]),
    )  # fmt: skip
    rows = some.integers(1, 5).flatmap(
        lambda width: some.lists(some.lists(cell, min_size=width, max_size=width + 1), min_size=1, max_size=12)
    )
    separators = some.sampled_from([",", ";", "\t", "|"])
    suffixes = some.sampled_from([".csv"] * 5 + [".tsv"] * 3 + [".jsonl", ".parquet", ".arrow", ".csv.gz"])

    def take(given: tuple[list[list[str]], str, str, str]) -> object:
        cells, separator, suffix, target = given
        file = scratch / f"fuzz{suffix}"
        file.write_text("\n".join(separator.join(row) for row in cells), encoding="utf-8", errors="surrogatepass")
        return load_table(str(file), target=target or cells[0][-1])

    return some.tuples(rows, separators, suffixes, some.sampled_from(["", "a", "y"])), take


def _rules(scratch: Path) -> tuple[Any, Callable[[Any], object]]:
    import torch

    from lrdiff_bench.system.rate_settings import plan_from_settings
    from lrdiff_core import Rule, param_groups

    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    parts = some.sampled_from(
        ["0.", "1.", "*", "?", "weight", "bias", "(a+)+$", "(.*)*x", "/", "[", "|", "(?=", "\\", "1e-3", " "]
    )
    plain = some.lists(parts | some.text(string.printable, max_size=3), max_size=6).map("".join)
    patterns = some.one_of(plain, plain.map("/{}/".format), some.sampled_from(["*", "0", "*.bias", "/.*t/", "lr"]))
    rates = some.dictionaries(patterns, some.floats(1e-6, 1.0) | some.floats() | _values, max_size=3)
    settings = some.sampled_from(
        ["lr=0.1", "lr_mult=2", "weight_decay=0", "freeze", "schedule=cosine", "lr=", "lr=nan", "=", "x=1"]
    )
    lines = some.tuples(patterns, some.lists(settings, min_size=1, max_size=2).map(" ".join)).map(" ".join)
    texts = some.lists(lines | _words, max_size=3)

    def take(given: dict[str, Any] | list[str]) -> object:
        if isinstance(given, dict):  # as a settings file has them
            return plan_from_settings(model, given)
        return param_groups(model, rules=[Rule.parse(text) for text in given])  # as an option has them

    return rates | texts, take


def _checkpoints(scratch: Path) -> tuple[Any, Callable[[Any], object]]:
    import safetensors.torch
    import torch

    from lrdiff_core.checkpoint import FORMAT, load_checkpoint
    from lrdiff_core.model import ModelSpec, build_model

    spec = ModelSpec(
        features=2, hidden=(3,), outputs=1, task="binary", feature_names=("a", "b"), classes=("0", "1"), target_name="y"
    )
    net = build_model(spec, seed=0)
    tensors, told = dict(net.state_dict()), spec.to_dict()
    file = scratch / "fuzz.safetensors"
    sizes = some.sampled_from([-1, 0, 1, 2, 3, 10**5, 10**9, 2**63])
    columns = some.lists(some.dictionaries(some.sampled_from(["name", "kind", "categories", "format"]), _values))
    others = some.sampled_from(["multiclass", "regression", [1] * 100_000])
    values = some.one_of(_values, sizes, some.lists(sizes, max_size=3), others, columns)
    changes = some.dictionaries(some.sampled_from([*told, "columns", "ids"]), values, max_size=3)
    headers = some.fixed_dictionaries(
        {"version": some.sampled_from([1] * 9 + ["1", 2]), "model": changes.map(lambda one: told | one)}
    )
    whole = (
        headers
        | headers
        | headers
        | some.sampled_from(["[" * 100_000, "{}", "null", "1", '{"version": 1, "own": true}'])
    )
    some_tensors = some.dictionaries(
        some.sampled_from(
            ["layer1.weight", "layer1.bias", "layer2.weight", "layer3.weight", "standardize.mean", "fill"]
        ),
        some.sampled_from([torch.zeros(0), torch.zeros(3, 2), torch.zeros(3), torch.zeros(1, 3, dtype=torch.float64)]),
        max_size=2,
    )

    def take(given: tuple[Any, dict[str, Any]]) -> object:
        header, other = given
        text = header if isinstance(header, str) else json.dumps(header)
        together = {name: tensor.clone() for name, tensor in (tensors | other).items()}
        safetensors.torch.save_file(together, file, metadata={FORMAT: text})
        loaded, _ = load_checkpoint(file)
        return loaded.predict(torch.zeros(1, loaded.spec.features))

    return some.tuples(whole, some_tensors), take


def _records(scratch: Path) -> tuple[Any, Callable[[Any], object]]:
    from lrdiff_bench.measure.engine.store import read_run

    file = scratch / "fuzz.jsonl"
    documents = _values.map(lambda one: json.dumps(one).encode())
    lines = (
        documents | some.binary(max_size=30) | some.sampled_from([b"[" * 100_000, b'{"sha256": 3}', b"\xff\xfe", b"{}"])
    )

    def take(several: list[bytes]) -> object:
        file.write_bytes(b"\n".join(several))
        return read_run(file)

    return some.lists(lines, max_size=4), take


def _summaries(scratch: Path) -> tuple[Any, Callable[[Any], object]]:
    from lrdiff_bench.run.use.open_run import list_runs
    from lrdiff_bench.system.run_folder import read_summary

    folder = scratch / "fuzzed-run"
    folder.mkdir(exist_ok=True)
    keys = ["data", "training", "checks", "missing", "metrics", "format", "version"]
    changes = some.dictionaries(some.sampled_from(keys), _values, max_size=4)

    def take(change: dict[str, Any]) -> object:
        document = {"format": "lrdiff.run", "version": 2, **change}
        (folder / "summary.json").write_text(json.dumps(document))
        list_runs(scratch)
        return read_summary(folder, check=())

    return changes, take


KINDS: dict[str, Callable[[Path], tuple[Any, Callable[[Any], object]]]] = {
    "configurations": _configurations,
    "settings files": _settings_files,
    "tables": _tables,
    "rules": _rules,
    "checkpoints": _checkpoints,
    "records": _records,
    "summaries": _summaries,
}
