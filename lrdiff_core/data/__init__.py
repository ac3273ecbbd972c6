"""Data in: built-in tables, files people bring, and the split into training, validation and test rows."""

from lrdiff_core.data.builtin import BUILTIN_TABLES
from lrdiff_core.data.doubts import Doubt, find_doubts
from lrdiff_core.data.load import load_table
from lrdiff_core.data.read import read_features, read_rows
from lrdiff_core.data.spec import ColumnSpec
from lrdiff_core.data.split import describe_split, fold_table, split_table
from lrdiff_core.data.splitting.keys import SplitKeys
from lrdiff_core.data.table import Split, Table, Task

__all__ = [
    "BUILTIN_TABLES",
    "ColumnSpec",
    "Doubt",
    "Split",
    "SplitKeys",
    "Table",
    "Task",
    "describe_split",
    "find_doubts",
    "fold_table",
    "load_table",
    "read_features",
    "read_rows",
    "split_table",
]
