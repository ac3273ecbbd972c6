"""Run a planted study in a process of its own: ``python study_planted.py URL SECONDS`` prints a line for each batch.

It begins when it reads a line, so that two of them begin together.
"""

import sys
import time

from benchmarks.simulate_study import SINGLE, TEN, Planted, _free
from lrdiff_bench.study.folder import MUST_AGREE, facts_of
from lrdiff_bench.study.search.engine import run_study
from lrdiff_bench.study.search.ledger import StorageLedger
from lrdiff_bench.study.search.plan import Plan

PLAN = Plan(budget=8, searches=2, report_seeds=6, target_seeds=4, widenings=1, finalists=3, final_seeds=4)
WORKLOAD = {"schemes": (SINGLE, TEN, _free("head")), "gain": {"ratio 10": 0.05}}


class Slow(Planted):
    """Takes its time, and few trials at once, so that it can be killed in the middle."""

    at_once = 8
    seconds = 0.0

    def train(self, trials):
        print(f"training {len(trials.seeds)}", flush=True)
        time.sleep(self.seconds)
        return super().train(trials)


def ledger(url, workload):
    return StorageLedger(
        url,
        workload.name,
        direction="minimize",
        facts=facts_of(workload, PLAN, {"kind": "test"}),
        must_agree=MUST_AGREE,
    )


def main(url, seconds):
    print("ready", flush=True)
    sys.stdin.readline()
    workload = Slow(**WORKLOAD)
    Slow.seconds = seconds
    finished = run_study(workload, PLAN, ledger(url, workload))
    print("finished", len(finished.results), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
