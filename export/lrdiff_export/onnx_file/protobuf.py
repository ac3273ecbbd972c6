"""Walking through protobuf messages without knowing their fields, so that no kind of graph is forgotten."""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]

__all__ = ["DecodeError", "Message", "messages"]


def messages(message: Message) -> Iterator[Message]:
    """Yield a message and every message inside it: nodes, subgraphs, functions, tensors.

    Args:
        message: may be changed while walking; what was cleared before the next step is not visited.

    Example:
        >>> import onnx
        >>> graph = onnx.GraphProto(node=[onnx.NodeProto(op_type="Relu")])
        >>> [type(part).__name__ for part in messages(graph)]
        ['GraphProto', 'NodeProto']
    """
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if isinstance(value, Message) else value:
                yield from messages(part)
