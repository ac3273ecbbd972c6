"""The guide on the auditor: its code runs from top to bottom and prints what it says."""

import contextlib
import io
import re
from pathlib import Path

import audit_healthy_loops  # noqa: F401 - registers
import audit_healthy_models  # noqa: F401 - registers
from audit_healthy import HEALTHY
from audit_miniatures import MINIATURES

from lrdiff_core.audit import KINDS

GUIDE = Path(__file__).parents[3] / "docs" / "guide" / "audit.md"
TEXT = GUIDE.read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```\n(?:```text\n(.*?)^```)?", TEXT, re.DOTALL | re.MULTILINE)


def test_the_examples_print_what_the_guide_says():
    assert len(BLOCKS) >= 6
    namespace: dict = {}
    for code, expected in BLOCKS:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, str(GUIDE), "exec"), namespace)
        assert printed.getvalue() == expected, code


def test_the_guide_begins_with_the_question_and_names_every_kind():
    assert TEXT.startswith("# Is my layer-wise decay really applied?\n")
    assert dict(re.findall(r"^\| `([a-z-]+)` \| (.*) \|$", TEXT, re.M)) == KINDS


def test_the_counts_are_those_of_the_suite():
    assert f"{len(MINIATURES)} of {len(MINIATURES)} bugs caught and named" in TEXT
    assert f"0 alarms on {len(HEALTHY)} healthy trainings" in TEXT
