"""What surrounds training: tables, splits, groups, range tests, checkpoints, maps, studies; and Muon's step."""

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


class MapBlock(measured.Timed):
    """A map of 8 x 8 cells, one epoch on four seeds."""

    case = "map_block"
    params = [[8]]
    param_names = ["cells"]


class StudyBatch(measured.Timed):
    """Sixteen settings on four seeds of the seed example."""

    case = "study_batch"


class TimeToTarget(measured.Timed):
    """Sixty-four trainings of the seed example until the median one has the target loss: in seconds, and in steps."""

    case = "time_to_target"
    params = [["seed-adam", "seed-sgd"]]
    param_names = ["workload"]

    def track_steps_to_target(self, *values: str) -> int:
        return int(self.record("steps").facts["steps_to_target"])

    track_steps_to_target.unit = "steps"


if measured.ALL:

    class MapBlockLarge(measured.Timed):
        """A map of 16 x 16 cells, too."""

        case = "map_block"
        params = [[8, 16]]
        param_names = ["cells"]

    class StudyBatchWorkloads(measured.Timed):
        """With Adam and with SGD."""

        case = "study_batch"
        params = [["seed-adam", "seed-sgd"]]
        param_names = ["workload"]

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
