"""What ``lrdiff parity`` can compare: runs, modules of one's own, ONNX files, and four models that are built in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lrdiff_bench.run.own_model.files import is_own, open_own
from lrdiff_bench.run.own_model.ship import rows_of
from lrdiff_bench.run.ship import decider, test_rows
from lrdiff_bench.run.use.open_run import held_out, onnx_of, open_run, shipped
from lrdiff_bench.system.arrays import read_arrays
from lrdiff_bench.system.factory import is_factory, load_model
from lrdiff_core import PRESETS, Predictor, load_table, make_config, set_up, train
from lrdiff_core.data import read_features
from lrdiff_core.errors import ConfigError, DataError
from lrdiff_export import Subject, inspect_untrusted, subject_of_file, subject_of_module
from lrdiff_export.examples import ZOO
from lrdiff_export.model.signature import as_tensors
from lrdiff_export.publish.export import rows_around

__all__ = ["BUILTIN", "find_subjects"]


def find_subjects(sources: Sequence[str], data: Path | None = None) -> dict[str, Subject]:
    """Return what is compared, by name.

    Args:
        sources: run folders, ONNX files, ``MODULE:FACTORY``; none for the built-in models.
        data: rows to predict, for a single source: a file with a run's columns, or ``.npy`` or ``.npz`` with one array
            an input for a module.

    Raises:
        ConfigError, DataError, CheckpointError, ModelFileError: a source or the rows cannot be used.
    """
    if data is not None and len(sources) != 1:
        raise ConfigError(f"--data goes with one source, not {len(sources) or 'the built-in models'}", help="name one")
    if len(set(sources)) < len(sources):
        raise ConfigError("a source is named twice", help="name each once")
    if not sources:
        return {name: make() for name, make in BUILTIN.items()}
    return {_short(source, sources): _find(source, data) for source in sources}


def _short(source: str, sources: Sequence[str]) -> str:
    """The last part of a path, unless two sources share it."""
    name = Path(source).name
    return name if sum(Path(one).name == name for one in sources) == 1 else source


def _find(source: str, data: Path | None) -> Subject:
    if source.endswith(".onnx"):
        if data is not None:
            raise ConfigError(
                "--data needs the run of an ONNX file: the file by itself has no float64 answers for new rows",
                help="name the run it was exported from",
            )
        inspect_untrusted(source)
        return subject_of_file(source)
    if is_factory(source):
        return _of_factory(source, data)
    run = Path(source)
    if is_own(run) and data is None:
        setup, file = open_own(run), onnx_of(run)
        decide = None if setup.table is None else decider(setup.task.kind)
        return subject_of_module(
            setup.shipped, rows_of(setup.held), onnx_bytes_or_path=file if file.is_file() else None, decide=decide
        )
    net, info, config = open_run(run)
    if data is None:
        rows, _ = held_out(net, config)
    else:
        spec, impute = net.spec, info.get("impute", "none")
        rows = read_features(str(data), feature_names=spec.feature_names, columns=spec.columns, impute=impute)
    file = onnx_of(run)
    return subject_of_module(
        shipped(net),
        np.ascontiguousarray(rows),
        onnx_bytes_or_path=file if file.is_file() else None,
        decide=decider(net.spec.task),
    )


def _of_factory(source: str, data: Path | None) -> Subject:
    model = load_model(source, needs=("example",))
    given = model.options.get("rows") if data is None else read_arrays(data)
    rows = _by_input(rows_around(model.example) if given is None else given, model.example)
    return subject_of_module(model.module, rows, output_names=model.options.get("output_names"))


def _by_input(given: Any, example: Any) -> Any:
    """Rows in the order of the example's inputs, under their names where it has names."""
    names = list(example) if isinstance(example, Mapping) else None
    if isinstance(given, Mapping):
        if names is not None and set(given) == set(names):
            return {name: given[name] for name in names}
        given = given.values()
    arrays = [given] if isinstance(given, np.ndarray) else list(given)
    inputs = len(as_tensors(example))
    if len(arrays) != inputs:
        raise DataError(
            f"rows are given for {len(arrays)} inputs, the example has {inputs}", help="give one array per input"
        )
    return tuple(arrays) if names is None else dict(zip(names, arrays, strict=True))


def _trained(settings: Mapping[str, Any]) -> Subject:
    config = make_config({**settings, "device": "cpu"})
    table = load_table(config.data, seed=config.seed)
    trained = train(set_up(table, config))
    return subject_of_module(Predictor(trained.net), test_rows(trained), decide=decider(trained.net.spec.task))


def _of_zoo(name: str) -> Subject:
    sample = ZOO[name]
    return subject_of_module(sample.module(), tuple(sample.rows.values()), decide=lambda scores: scores.argmax(axis=1))


BUILTIN: dict[str, Callable[[], Subject]] = {
    "main": lambda: _trained(PRESETS["seed"]),
    "convolution": lambda: _of_zoo("convolution, batch norm"),
    "transformer": lambda: _of_zoo("transformer block"),
    "digits": lambda: _trained({"data": "digits", "epochs": 5}),
}
