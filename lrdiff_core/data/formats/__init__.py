"""Files people bring and files predictions go to: one registry of formats."""

from lrdiff_core.data.formats.names import check_names
from lrdiff_core.data.formats.registry import (
    FORMATS,
    STANDARD_INPUT,
    SUFFIXES,
    Format,
    encode_frame,
    has_suffix,
    read_frame,
    table_name,
)

__all__ = [
    "FORMATS",
    "STANDARD_INPUT",
    "SUFFIXES",
    "Format",
    "check_names",
    "encode_frame",
    "has_suffix",
    "read_frame",
    "table_name",
]
