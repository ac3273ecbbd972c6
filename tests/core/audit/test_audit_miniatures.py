"""Every miniature of a reported bug is caught and named, and no kind of finding goes without one."""

import pytest
from audit_counts import caught
from audit_miniatures import MINIATURES

from lrdiff_core.audit import KINDS

NOTES = {"outside"}  # are never more than worth knowing


@pytest.mark.parametrize("name", MINIATURES)
def test_the_bug_is_caught_and_named(name):
    named, report = caught(name)
    assert named, f"{MINIATURES[name].source}\n{report}"
    assert not report.passed
    kinds = {finding.kind for finding in report.findings}
    assert kinds <= KINDS.keys()
    marked = {row.name for row in report.rows if row.differs}
    assert marked >= {name for one in report.findings if not one.note for name in one.parameters} & {
        row.name for row in report.rows
    }


def test_every_kind_of_finding_has_its_bug():
    assert {bug.kind for bug in MINIATURES.values()} == KINDS.keys() - NOTES
    assert len(MINIATURES) >= 15
