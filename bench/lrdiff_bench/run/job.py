"""The main job: eleven stages from rows to a proven ONNX file, each a section of one summary document.

Every stage returns plain JSON types. The screen (:mod:`lrdiff_bench.run.screen`) draws a section as soon as it is
there; ``lrdiff trace`` draws the same sections from ``summary.json``.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from lrdiff_bench.report import figures
from lrdiff_bench.report.json import json_ready, write_document
from lrdiff_bench.report.parts import write_report
from lrdiff_bench.run.baselines import test_results
from lrdiff_bench.run.comparison_screen import curves_of
from lrdiff_bench.run.section import run_part
from lrdiff_bench.run.single_rates import compare_single_rates
from lrdiff_bench.run.step_cost import measure_step_cost
from lrdiff_bench.system.run_folder import SUMMARY_FORMAT, SUMMARY_VERSION, new_run_folder, next_free
from lrdiff_core import __version__
from lrdiff_core.checkpoint import save_checkpoint
from lrdiff_core.config import RunConfig
from lrdiff_core.data import Table, load_table
from lrdiff_core.errors import ConfigError
from lrdiff_core.files import atomic_path, write_text
from lrdiff_core.loop import Observation, Setup, Trained, layer_rate_table, score_name, set_up, train
from lrdiff_core.model import Predictor, TabularNet, constant_columns

__all__ = ["STAGES", "RunResult", "Watcher", "default_folder", "run_job"]

STAGES = (
    "data",
    "preprocessing",
    "features",
    "training",
    "metrics",
    "prediction",
    "comparison",
    "step_cost",
    "export",
    "parity",
    "folder",
)


class Watcher(Protocol):
    """What follows a run: the screen, or nothing. A Protocol, so that a notebook can bring its own."""

    def stage(self, name: str, section: dict[str, Any]) -> None:
        """A stage is done; ``section`` is its part of the summary."""

    def progress(self, name: str, done: int, total: int, note: str) -> None:
        """A stage has come this far."""


class Silent:
    """A watcher that shows nothing."""

    def stage(self, name: str, section: dict[str, Any]) -> None:
        pass

    def progress(self, name: str, done: int, total: int, note: str) -> None:
        pass


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What :func:`run_job` returns."""

    folder: Path
    summary: dict[str, Any]
    trained: Trained

    @property
    def passed(self) -> bool:
        """Whether every check of the run held."""
        return all(self.summary["checks"].values())


def default_folder(config: RunConfig) -> Path:
    """Return ``runs/NAME``, where a run goes that is not told otherwise."""
    return Path("runs") / config.name


def run_job(
    config: RunConfig,
    *,
    out: Path | None = None,
    overwrite: bool = False,
    stages: Sequence[str] = STAGES,
    watcher: Watcher | None = None,
) -> RunResult:
    """Run the main job and write its folder.

    Args:
        config: the settings, from :func:`lrdiff_core.make_config`.
        out: the run folder; if left out, ``runs/NAME``, or ``runs/NAME-2`` and so on where there are runs already.
        overwrite: replace an earlier run in that folder.
        stages: which stages to run; the first six and ``folder`` always are.
        watcher: told of every stage as it is done.

    Returns:
        The folder, its summary and the trained model. ``passed`` is false if verification or parity failed; the folder
        then holds the reports and no ONNX file.

    Raises:
        LrdiffError: the input cannot be used; nothing is written then.

    Example:
        >>> import tempfile
        >>> from lrdiff_core import make_config
        >>> folder = Path(tempfile.mkdtemp()) / "first"
        >>> result = run_job(make_config({"epochs": 2}), out=folder, stages=["export"])
        >>> result.passed, (folder / "model.onnx").is_file()
        (True, True)
    """
    if unknown := [name for name in stages if name not in STAGES]:
        raise ConfigError(f'there is no stage "{unknown[0]}"', help=f"stages are: {', '.join(STAGES)}")
    watcher = watcher or Silent()
    final = out or default_folder(config)
    if not overwrite and (final / "summary.json").is_file():
        if out is not None:
            raise ConfigError(
                f"{out} holds a run already", help="add --overwrite to replace it, or name another folder"
            )
        final = next_free(final)
    record = _Record(config, watcher)
    with record.timed("data"):
        table = load_table(config.data, target=config.target, task=config.task, impute=config.impute, seed=config.seed)
    with record.timed("preprocessing"):
        setup = set_up(table, config)
    places: list[Path] = []
    with new_run_folder(final, overwrite=overwrite, placed=places.append) as folder:
        trained = _train(record, setup, config)
        if "comparison" in stages:
            with record.timed("comparison"):
                comparison = compare_single_rates(
                    config, table=table, on_training=lambda i, n: watcher.progress("comparison", i, n, "trainings")
                )
            record.done("comparison", comparison.section())
        if "step_cost" in stages:
            with record.timed("step_cost"):
                cost = measure_step_cost(trained, config)
            record.done("step_cost", cost)
        _write_training(folder, trained, config)
        _ship(record, trained, config, folder, stages)
        with record.timed("pictures"):
            figures.draw_metrics(folder, record.summary)
            if "comparison" in record.summary:
                figures.draw_comparison(folder, record.summary, curves_of(record.summary["comparison"]))
            where = f"runs/{config.name}" if out is None else str(out)
            part = run_part(record.summary, trained.setup.plan, where)
            write_report(folder / "report.html", [part], title=part.title, command="lrdiff run")
        files = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
        record.summary["folder"] = {"files": [*files, "summary.json"]}
        write_document(folder / "summary.json", record.summary)
    (final,) = places
    watcher.stage("folder", {**record.summary["folder"], "path": str(final)})
    return RunResult(folder=final, summary=record.summary, trained=trained)


class _Record:
    """The summary of a run while it grows, stage by stage."""

    def __init__(self, config: RunConfig, watcher: Watcher) -> None:
        self.watcher = watcher
        self.summary: dict[str, Any] = {
            "format": SUMMARY_FORMAT,
            "version": SUMMARY_VERSION,
            "name": config.name,
            "lrdiff": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "seconds": {},
            "checks": {},
        }

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self.summary["seconds"][name] = round(time.perf_counter() - begun, 3)

    def done(self, name: str, section: dict[str, Any]) -> None:
        self.summary[name] = json_ready(section)
        self.watcher.stage(name, self.summary[name])

    def check(self, name: str, section: dict[str, Any], *, stage: str) -> None:
        """A stage is done that holds or does not."""
        self.summary["checks"][name] = section["passed"]
        self.done(stage, section)


def _train(record: _Record, setup: Setup, config: RunConfig) -> Trained:
    """The stages that every run has."""
    record.done("data", data_section(setup))
    record.done("preprocessing", preprocessing_section(setup))
    record.done("features", features_section(setup))
    record.done("training", training_section(setup, config))
    with record.timed("metrics"):
        trained = train(setup, config, on_epoch=_epochs_to(record.watcher, config.epochs, setup.rows.table.task))
    record.done("metrics", metrics_section(trained))
    record.done("prediction", prediction_section(trained))
    return trained


def _ship(record: _Record, trained: Trained, config: RunConfig, folder: Path, stages: Sequence[str]) -> None:
    """The stages that end in a proven file."""
    if "export" in stages:
        with record.timed("export"):
            section = export_section(trained, folder, config)
        record.check("verification", section, stage="export")
    if "parity" in stages:
        with record.timed("parity"):
            section = parity_section(trained, folder)
        record.check("parity", section, stage="parity")


def data_section(setup: Setup) -> dict[str, Any]:
    table, split, sample = setup.rows.table, setup.rows.split, sample_row(setup)
    return {
        "name": table.name,
        "source": table.source,
        "rows": len(table.features),
        "features": table.features.shape[1],
        "feature_names": table.feature_names,
        "target": table.target_name,
        "task": table.task,
        "classes": table.classes,
        "split": {"train": len(split.train), "validation": len(split.validation), "test": len(split.test)},
        "sample": {"row": sample, "values": table.features[sample], "label": label_of(table, sample)},
        "notes": table.notes,
    }


def preprocessing_section(setup: Setup) -> dict[str, Any]:
    shape = list(setup.rows.table.features.shape)
    return {
        "what": "zero mean, unit variance, fitted on the training rows only",
        "shape_in": shape,
        "shape_out": shape,
        "constant_columns": constant_columns(setup.net),
        "fills_missing": setup.net.spec.fills_missing,
        "sample": standardized_sample(setup),
    }


def features_section(setup: Setup) -> dict[str, Any]:
    shape = list(setup.rows.table.features.shape)
    return {"what": "none", "shape_in": shape, "shape_out": shape, "sample": standardized_sample(setup)}


def training_section(setup: Setup, config: RunConfig) -> dict[str, Any]:
    net, rates = setup.net, layer_rate_table(setup)
    steps = -(-len(setup.rows.split.train) // setup.batch_size)
    layers = []
    for name in net.layer_names:
        layer = net.get_submodule(name)
        layers.append({
            "name": name,
            "weight": list(layer.get_parameter("weight").shape),
            "parameters": sum(p.numel() for p in layer.parameters()),
            "rate": rates[name],
        })  # fmt: skip
    return {
        "layers": layers,
        "optimizer": config.optimizer,
        "batch_size": setup.batch_size,
        "epochs": config.epochs,
        "steps": steps * config.epochs,
        "device": str(setup.device),
        "compile": config.compile,
        "threads": config.threads,
        "seed": config.seed,
    }


def metrics_section(trained: Trained) -> dict[str, Any]:
    return {
        "score": score_name(trained.net.spec.task),
        "observations": [asdict(row) for row in trained.observations],
        "test": test_results(trained),
    }


def prediction_section(trained: Trained) -> dict[str, Any]:
    setup, net = trained.setup, trained.net
    table, sample = setup.rows.table, sample_row(setup)
    row = torch.from_numpy(table.features[sample])
    with torch.no_grad():
        answer = net.predict(row[None])[0]
    rates = layer_rate_table(setup)
    return {
        "row": sample,
        "label": label_of(table, sample),
        "task": table.task,
        "classes": table.classes,
        "answer": answer.numpy(),
        "trace": [{**asdict(step), "rate": rates.get(step.layer or "")} for step in net.trace(row)],
    }


def sample_row(setup: Setup) -> int:
    """Return the row that is followed through all stages: the first of the test split."""
    return int(setup.rows.split.test[0])


def standardized_sample(setup: Setup) -> list[float]:
    return [float(value) for value in setup.rows.inputs["test"][0]]


def export_net(
    net: TabularNet,
    rows: np.ndarray,
    targets: np.ndarray,
    file: Path,
    *,
    rates: dict[str, float],
    config: RunConfig,
    **options: Any,
) -> dict[str, Any]:
    """Export the main model with everything that its file says of itself, and golden vectors beside it.

    Args:
        net: on the CPU.
        rows: held-out raw rows [rows, features] to verify on.
        targets: [rows] class indices or numbers, for the metric of variants.
        file: where to.
        rates: rate of each layer.
        config: the run's settings.
        options: further ones of :func:`lrdiff_export.export`.

    Raises:
        VerificationFailed: the file did not predict as the model; nothing was written.
    """
    from lrdiff_export import export, model_card  # here: the exporter takes a second to import

    predictor = Predictor(net)
    recipe = config.model_dump(include={"optimizer", "epochs", "batch_size", "seed", "hidden"}, mode="json")
    report = export(
        predictor,
        torch.from_numpy(rows[:2]),
        out=file,
        rows=rows,
        output_names=(answer_name(net.spec.task),),
        card=model_card(predictor, rates=rates, recipe=recipe),
        decide=decider(net.spec.task),
        labels=targets,
        score=r_squared if net.spec.task == "regression" else None,  # else the share of right decisions
        **options,
    )
    return {**report.to_dict(), "passed": True, "preprocessing": True}


def export_section(trained: Trained, folder: Path, config: RunConfig) -> dict[str, Any]:
    from lrdiff_export import VerificationFailed

    rates = layer_rate_table(trained.setup)
    try:
        rows = trained.setup.rows
        targets = rows.table.target[rows.split.test]
        resolved = {"hidden": trained.net.spec.hidden, "batch_size": trained.setup.batch_size}
        report = export_net(
            trained.net,
            test_rows(trained),
            targets,
            folder / "model.onnx",
            rates=rates,
            config=config.model_copy(update=resolved),
        )
    except VerificationFailed as problem:
        if problem.report is None:
            raise
        report = {"verification": problem.report.to_dict(), "golden": [], "passed": False}
    # The names they will have; while the run is being written its folder has another one. Seconds differ every time.
    report = {**report, "path": "model.onnx", "golden": [Path(name).name for name in report["golden"]]}
    write_document(folder / "verification.json", report)
    return report


def parity_section(trained: Trained, folder: Path) -> dict[str, Any]:
    from lrdiff_export import BACKENDS, check_parity

    model = folder / "model.onnx"
    report = check_parity(
        Predictor(trained.net),
        test_rows(trained),
        # Those that take many seconds to start are left to `lrdiff parity`.
        backends=[name for name, backend in BACKENDS.items() if not backend.heavy],
        onnx_bytes_or_path=model if model.is_file() else None,
        decide=decider(trained.net.spec.task),
    ).to_dict()
    write_document(folder / "parity.json", report)
    return report


def answer_name(task: str) -> str:
    """Return what the model's output is called in the ONNX file."""
    return {"binary": "probability", "multiclass": "probabilities", "regression": "prediction"}[task]


def decider(task: str) -> Callable[[np.ndarray], np.ndarray] | None:
    """Return how an answer [batch, outputs] becomes a decision [batch]; regression has none."""
    if task == "binary":
        return lambda answer: answer[:, 0] > 0.5
    if task == "multiclass":
        return lambda answer: answer.argmax(axis=1)
    return None


def r_squared(answers: np.ndarray, targets: np.ndarray) -> float:
    """Return the explained share of the variance of targets [rows] for answers [rows, 1].

    Example:
        >>> r_squared(np.array([[1.0], [2.0]]), np.array([1.0, 3.0]))
        0.5
    """
    wanted = targets.astype(np.float64)
    off, spread = np.sum((answers[:, 0] - wanted) ** 2), np.sum((wanted - wanted.mean()) ** 2)
    return float(1.0 - off / spread) if spread else 0.0


def test_rows(trained: Trained) -> np.ndarray:
    """Return the raw rows of the test split."""
    return np.ascontiguousarray(trained.setup.rows.table.features[trained.setup.rows.split.test])


def resolved_toml(config: RunConfig, setup: Setup, rates: dict[str, float]) -> str:
    """Return the settings with nothing left open; ``lrdiff run`` on it repeats the run."""
    data = config.data if setup.rows.table.source != "file" else str(Path(config.data).resolve())
    settings = config.model_dump(exclude={"rates", "compare"}, exclude_none=True) | {
        "data": data,
        "task": setup.rows.table.task,
        "hidden": setup.net.spec.hidden,
        "batch_size": setup.batch_size,
        "device": setup.device.type,
    }
    tables = {"": settings, "rates": rates, "compare": config.compare.model_dump(exclude_none=True)}
    lines = []
    for title, table in tables.items():
        lines += [f"\n[{title}]"] if title else []
        # JSON's strings, numbers, arrays and booleans are TOML's too
        lines += [f"{key} = {json.dumps(json_ready(value), ensure_ascii=False)}" for key, value in table.items()]
    return "\n".join(lines) + "\n"


def label_of(table: Table, row: int) -> str | float:
    """Return the label of one row: the class's name, or the value."""
    return table.classes[int(table.target[row])] if table.classes else float(table.target[row])


def _epochs_to(watcher: Watcher, epochs: int, task: str) -> Callable[[int, Sequence[Observation]], None]:
    def tell(epoch: int, news: Sequence[Observation]) -> None:
        note = "  ".join(f"{row.split} loss {row.loss:.3f} {score_name(task)} {row.score:.3f}" for row in news)
        watcher.progress("metrics", epoch, epochs, note)

    return tell


def _write_training(folder: Path, trained: Trained, config: RunConfig) -> None:
    import polars

    rates = layer_rate_table(trained.setup)
    write_text(folder / "config.toml", resolved_toml(config, trained.setup, rates))
    write_document(folder / "rates.json", trained.setup.plan.to_dict())
    save_checkpoint(folder / "model.safetensors", trained.net, info={"rates": rates, "impute": config.impute})
    with atomic_path(folder / "metrics.parquet") as beside:
        polars.DataFrame([asdict(row) for row in trained.observations]).write_parquet(beside)
