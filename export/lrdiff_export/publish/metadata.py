"""What a file says of itself: schema, normalisation, classes, hash of the weights, versions, rates, measured errors.

Everything is text under keys that begin with ``lrdiff.``; what has structure is JSON with sorted keys. Nothing in it is
a time or a path.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata as installed
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from lrdiff_core.errors import ConfigError, ModelFileError
from lrdiff_core.model import ModelSpec, Predictor
from lrdiff_export.model.ports import Port
from lrdiff_export.model.text_inputs import TextInputs
from lrdiff_export.onnx_file.load import load_onnx, model_inputs, parse_onnx
from lrdiff_export.records import first_line
from lrdiff_export.verify.verify import VerificationReport

__all__ = [
    "ModelCard",
    "model_card",
    "measured_errors",
    "ports_of",
    "read_model_card",
    "text_inputs_of",
    "weights_sha256",
]

PREFIX = "lrdiff."
_NAMES = ("task", "target")  # text whatever it looks like: a column may be called "[kg]"
_PACKAGES = ("lrdiff", "torch", "onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What the author of a model wants a deployer to know.

    Attributes:
        task: ``binary``, ``multiclass``, ``regression``, or empty.
        target: name of what is predicted.
        classes: their names, in the order of the outputs.
        features: names of the columns of the first input.
        columns: what each of these is, as a table's reader describes it: name, kind, categories and how it is written.
        ids: columns that name a row, and are repeated beside its prediction.
        normalisation: what the graph does to raw rows first, such as ``{"mean": [...], "inverse_std": [...]}``.
        units: unit of each input and output by its name.
        rates: the rate plan: learning rate of each parameter or layer.
        recipe: how it was trained, as JSON-ready values.
        warnings: what its users must know of its quality, a sentence each.

    Raises:
        ConfigError: something is not JSON.

    Example:
        >>> ModelCard(units={"speed": "m/s"}).units
        {'speed': 'm/s'}
    """

    task: str = ""
    target: str = ""
    classes: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    columns: tuple[Mapping[str, Any], ...] = ()
    ids: tuple[str, ...] = ()
    normalisation: Mapping[str, Any] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    rates: Mapping[str, float] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("columns", "normalisation", "units", "rates", "recipe"):
            try:
                _dump(getattr(self, name))
            except (TypeError, ValueError) as problem:
                raise ConfigError(f"{name} of the card is not JSON: {problem}", help="use plain values") from problem

    def texts(self, inputs: Sequence[Port], outputs: Sequence[Port]) -> dict[str, str]:
        """Return the metadata of a file with these ports; what nobody said is left out.

        Raises:
            ConfigError: a unit is given for a name that the file does not have.
        """
        if unknown := sorted(set(self.units) - {port.name for port in (*inputs, *outputs)}):
            known = ", ".join(port.name for port in (*inputs, *outputs))
            raise ConfigError(
                f"a unit is given for {unknown[0]!r}, which the file does not have", help=f"names: {known}"
            )
        schema = {
            "inputs": [_said(port.to_dict()) for port in inputs],
            "outputs": [_said(p.to_dict()) for p in outputs],
        }
        said = {
            "task": self.task,
            "target": self.target,
            "classes": list(self.classes),
            "features": list(self.features),
            "columns": list(self.columns),
            "ids": list(self.ids),
            "normalisation": dict(self.normalisation),
            "rates": dict(self.rates),
            "recipe": dict(self.recipe),
            "warnings": list(self.warnings),
        }
        return {
            PREFIX + key: value if isinstance(value, str) else _dump(value) for key, value in said.items() if value
        } | {
            PREFIX + "schema": _dump(schema),
            PREFIX + "versions": _dump(_versions()),
        }


def model_card(
    module: nn.Module,
    *,
    rates: Mapping[str, float] | None = None,
    recipe: Mapping[str, Any] | None = None,
    warnings: Sequence[str] = (),
) -> ModelCard:
    """Return the card of one of our models; an empty one, but for rates and recipe, for any other module.

    Args:
        module: :class:`lrdiff_core.model.Predictor` knows its columns, classes and normalisation.
        rates: learning rate of each parameter or layer.
        recipe: how it was trained.
        warnings: what its users must know of its quality.

    Example:
        >>> model_card(nn.Linear(1, 1), rates={"weight": 0.1}).rates
        {'weight': 0.1}
    """
    if not isinstance(module, Predictor):
        return ModelCard(rates=rates or {}, recipe=recipe or {}, warnings=tuple(warnings))
    spec, standardize = module.net.spec, module.net.standardize
    normalisation: dict[str, Any] = {
        "what": "(row - mean) * inverse_std, inside the graph",
        "mean": standardize.mean.tolist(),
        "inverse_std": standardize.inverse_std.tolist(),
    }
    if module.net.encode is not None:
        normalisation["what"] = "columns are encoded, then (value - mean) * inverse_std, inside the graph"
        normalisation["of"] = list(spec.encoded_names)
    if spec.fills_missing:
        normalisation["missing_values_become"] = standardize.fill.tolist()
    return ModelCard(
        task=spec.task,
        target=spec.target_name,
        classes=spec.classes,
        features=spec.feature_names,
        ids=spec.ids,
        columns=tuple(_said(column.to_dict()) for column in spec.columns),
        normalisation=normalisation,
        rates=rates or {},
        recipe=recipe or {},
        warnings=tuple(warnings),
    )


def text_inputs_of(module: nn.Module, *, output_names: Sequence[str] = ()) -> TextInputs | None:
    """Return how a file of one of our models takes its columns of categories as words; None where there are none.

    Args:
        module: takes the matrix of a table, whose columns its ``spec`` describes, a :class:`lrdiff_core.ModelSpec`; or
            a :class:`lrdiff_core.model.Predictor`.
        output_names: of the file.

    Example:
        >>> text_inputs_of(nn.Linear(1, 1)) is None
        True
    """
    spec = getattr(module.net if isinstance(module, Predictor) else module, "spec", None)
    if not isinstance(spec, ModelSpec):
        return None
    words = {one.name: one.categories for one in spec.columns if one.kind == "category" and one.categories}
    return TextInputs.of(spec.feature_names, words, taken=output_names) if words else None


def ports_of(
    model: onnx.ModelProto, units: Mapping[str, str], declared: Sequence[Port] = ()
) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Return inputs and outputs of a model with their units, and what is declared of them."""
    said = {one.name: one for one in declared}
    return tuple(_port(one, units, said) for one in model_inputs(model)), tuple(
        _port(one, units, said) for one in model.graph.output
    )


def weights_sha256(module: nn.Module) -> str:
    """Return a hash of names, dtypes, shapes and values of all parameters and buffers, in the order of their names.

    Example:
        >>> weights_sha256(nn.ReLU())[:12]
        'e3b0c44298fc'
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        values = tensor.detach().to("cpu").contiguous()
        digest.update(f"{name} {values.dtype} {list(values.shape)}\n".encode())
        digest.update(values.flatten().view(torch.uint8).numpy().tobytes() if values.numel() else b"")
    return digest.hexdigest()


def measured_errors(report: VerificationReport) -> dict[str, str]:
    """Return the metadata that says how far off a file was, rounded up to two digits, and for which inputs.

    Args:
        report: of a battery that passed.
    """
    errors = {
        verdict.output: {"error_eps": _round_up(verdict.error), "allowed_eps": _round_up(verdict.allowed)}
        for verdict in report.worst
    }
    texts = {
        PREFIX + "errors": _dump(
            {"against": "eager float64", "runtime": f"onnxruntime {report.onnxruntime}", "outputs": errors}
        )
    }
    texts[PREFIX + "domain"] = _dump(report.domain.to_dict())
    if report.not_tried:
        texts[PREFIX + "not_tried"] = _dump(list(report.not_tried))
    if report.agrees_up_to is not None:
        texts[PREFIX + "agrees_up_to_scale"] = f"{report.agrees_up_to:g}"
    return texts


def read_model_card(path_or_bytes: str | os.PathLike[str] | bytes) -> dict[str, Any]:
    """Return what a file says of itself, keys without ``lrdiff.``, JSON decoded.

    Raises:
        ModelFileError: not an ONNX file, or one whose metadata is damaged.
    """
    data = path_or_bytes if isinstance(path_or_bytes, bytes) else load_onnx(path_or_bytes)
    said: dict[str, Any] = {}
    for entry in parse_onnx(data).metadata_props:
        if entry.key.startswith(PREFIX):
            key, value = entry.key[len(PREFIX) :], entry.value
            try:
                said[key] = json.loads(value) if value[:1] in "{[" and key not in _NAMES else value
            except (ValueError, RecursionError) as problem:
                raise ModelFileError(
                    f"metadata {first_line(entry.key)} is not JSON: {first_line(problem)}", help="export it again"
                ) from problem
    return said


def _port(value: onnx.ValueInfoProto, units: Mapping[str, str], said: Mapping[str, Port]) -> Port:
    kind = value.type.tensor_type
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in kind.shape.dim)
    words = kind.elem_type == onnx.TensorProto.STRING
    dtype = "string" if words else str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
    port = said.get(value.name, Port(name=value.name))
    return replace(port, dtype=dtype, shape=shape, unit=units.get(value.name, port.unit))


def _said(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if value != ""}


def _versions() -> dict[str, str]:
    return {name: installed.version(name) for name in _PACKAGES}


def _dump(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} {value!r}")


def _round_up(value: float) -> float:
    if value == 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / unit) * unit:.2g}")
