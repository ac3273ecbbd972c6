"""What surrounds training: tables, splits, groups, range tests, checkpoints; and Muon's step."""

from asv_suite import measured


class LoadTable(measured.Timed):
    """A file with ten numbers and a label a row."""

    case = "load_table"
    params = [["csv", "parquet"], [1000]]
    param_names = ["kind", "rows"]


class SplitTable(measured.Timed):
    """Three parts with strata."""

    case = "split_table"
    params = [[1000]]
    param_names = ["rows"]


class Checkpoint(measured.Timed):
    """Weights written and read again."""

    case = "checkpoint"


class ParamGroups(measured.Timed):
    """A rate plan by layer decay and a rule, and its groups."""

    case = "param_groups"


class LrFind(measured.Timed):
    """A range test of twenty points."""

    case = "lr_find"


class MuonStep(measured.Timed):
    """Twelve matrices by Muon, the rest by AdamW."""

    case = "muon_step"


if measured.ALL:

    class LoadTableLarge(measured.Timed):
        """A hundred thousand rows."""

        case = "load_table"
        params = [["csv", "parquet"], [1000, 100_000]]
        param_names = ["kind", "rows"]

    class SplitTableLarge(measured.Timed):
        """A hundred thousand rows."""

        case = "split_table"
        params = [[1000, 100_000]]
        param_names = ["rows"]
