"""No alarm on healthy trainings, and what they applied is read off right."""

import audit_healthy_loops  # noqa: F401 - registers
import audit_healthy_models  # noqa: F401 - registers
import pytest
from audit_healthy import HEALTHY


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_training_raises_no_alarm(name):
    healthy = HEALTHY[name]
    report = healthy.train()
    assert report.passed, report
    assert not any(row.differs for row in report.rows)
    assert report.looks >= 3
    learning = [row for row in report.rows if not row.frozen]
    assert learning
    if healthy.rule is not None:
        assert {row.rule for row in learning} == {healthy.rule}, report
        for row in learning:
            assert row.applied is None or row.applied == pytest.approx(row.asked, rel=0.05), report
        assert any(row.applied is not None for row in learning), report


def test_there_are_enough_of_them():
    assert len(HEALTHY) >= 30
