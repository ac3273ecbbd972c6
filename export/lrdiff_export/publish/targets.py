"""Which runtime reads which operator set and IR version, by version; every row was read off the runtime itself.

``probe`` is the check: a file of one opset and one IR version, loaded and run. ``tests/export/test_export_targets.py``
runs it against every runtime of the table that can be installed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from onnx import TensorProto, helper

from lrdiff_core.errors import ConfigError

__all__ = ["TARGETS", "Target", "find_target", "probe_model"]


@dataclass(frozen=True, kw_only=True)
class Target:
    """One runtime in one version.

    Attributes:
        runtime: ``onnxruntime``, ``onnxruntime-web``, ``onnxruntime-node`` or ``openvino``.
        version: of its package.
        opset: the newest operator set of the standard domain whose files it reads.
        ir_version: the newest IR version that it reads.
    """

    runtime: str
    version: str
    opset: int
    ir_version: int

    @property
    def name(self) -> str:
        """Runtime and version, as ``lrdiff export --runtime`` takes them."""
        return f"{self.runtime}=={self.version}"


# The versions at which something changes; between them nothing did (1.16.3 to 1.32.0 were all tried on 2026-11-23).
_NATIVE = {
    "1.16.3": (19, 9),
    "1.17.3": (20, 9),
    "1.18.1": (21, 10),
    "1.21.1": (22, 10),
    "1.23.2": (23, 11),
    "1.24.4": (25, 13),
    "1.25.1": (26, 13),
    "1.32.0": (28, 14),
}
_JAVASCRIPT = {
    "1.17.3": (20, 9),
    "1.18.0": (21, 10),
    "1.21.1": (22, 10),
    "1.23.2": (23, 11),
    "1.24.3": (25, 13),
    "1.25.1": (26, 13),
    "1.30.0": (26, 13),
}
_TABLE: dict[str, dict[str, tuple[int, int]]] = {
    "onnxruntime": _NATIVE,
    "onnxruntime-web": _JAVASCRIPT,
    "onnxruntime-node": _JAVASCRIPT,
    # OpenVINO read everything that onnx 1.23 can write, and IR versions that do not exist yet.
    "openvino": {"2026.4.1": (28, 14)},
}


def _rows() -> Iterator[Target]:
    for runtime, versions in _TABLE.items():
        for version, (opset, ir_version) in versions.items():
            yield Target(runtime=runtime, version=version, opset=opset, ir_version=ir_version)


TARGETS: tuple[Target, ...] = tuple(_rows())


def find_target(name: str) -> Target:
    """Return a row of the table.

    Args:
        name: ``onnxruntime-web==1.30``, or a runtime alone for its newest version. A version that is not in the table
            is read by the newest older one, whose files it reads too.

    Raises:
        ConfigError: no such runtime, or a version older than all that were tried.

    Example:
        >>> find_target("onnxruntime==1.20.5").version
        '1.18.1'
    """
    runtime, _, version = name.partition("==")
    rows = [row for row in TARGETS if row.runtime == runtime.strip()]
    if not rows:
        raise ConfigError(
            f'no target "{name}"', help=f"targets: {', '.join(dict.fromkeys(t.runtime for t in TARGETS))}"
        )
    if not version.strip():
        return rows[-1]
    try:
        asked = _parts(version.strip())
    except ValueError:
        raise ConfigError(f'"{version}" is not a version', help=f"write {rows[-1].name}") from None
    # "1.30" means any 1.30.x: compare as many parts as were written
    older = [row for row in rows if _parts(row.version)[: len(asked)] <= asked]
    if not older:
        raise ConfigError(f"{name} is older than every version that was tested", help=f"the oldest is {rows[0].name}")
    return older[-1]


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def probe_model(*, opset: int, ir_version: int) -> bytes:
    """Return a file of exactly one opset and IR version: ``y = relu(x)``, ``x`` float32 ``[batch, 2]``.

    Example:
        >>> import onnx
        >>> onnx.ModelProto.FromString(probe_model(opset=20, ir_version=9)).ir_version
        9
    """
    ports: list[Any] = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "probe", ports[:1], ports[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = ir_version
    return bytes(model.SerializeToString())
