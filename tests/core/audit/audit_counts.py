"""How many reported bugs the auditor catches, and how many healthy trainings alarm it.

Run it: ``python tests/core/audit/audit_counts.py``
"""

import audit_healthy_loops  # noqa: F401 - registers
import audit_healthy_models  # noqa: F401 - registers
from audit_healthy import HEALTHY
from audit_miniatures import MINIATURES


def caught(name):
    """Whether a miniature's bug is found and named, and the report."""
    bug = MINIATURES[name]
    report = bug.train()
    found = [one for one in report.findings if one.kind == bug.kind and not one.note]
    named = any(any(p.startswith(bug.names) for p in one.parameters) for one in found) if bug.names else bool(found)
    return named, report


if __name__ == "__main__":
    bugs = {name: caught(name)[0] for name in MINIATURES}
    alarms = {name: not healthy.train().passed for name, healthy in HEALTHY.items()}
    print(f"{sum(bugs.values())} of {len(bugs)} bugs caught and named")
    print(f"{sum(alarms.values())} alarms on {len(alarms)} healthy trainings")
    for name in [name for name, held in bugs.items() if not held] + [name for name, held in alarms.items() if held]:
        print(f"  {name}")
