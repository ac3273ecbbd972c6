"""The main job: a 10-5-1 network on a table, with one rate and with two."""

from asv_suite import measured


class MainStep(measured.Checked):
    """Optimizer step on fixed gradients."""

    case = "main_step"
    params = [[1, 2]]
    param_names = ["rates"]


class MainEpoch(measured.Checked):
    """One training epoch of 700 rows."""

    case = "main_epoch"
    params = [[1, 2]]
    param_names = ["rates"]


class MainMemory(measured.Peak):
    """Ten training epochs."""

    case = "main_memory"
    fixed = {"rates": 2}
