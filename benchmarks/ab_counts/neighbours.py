"""Busy loops that come and go: what a shared machine is like."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

LONGEST = 5.0  # seconds that a neighbour works or rests
LOOP = "while True: pass"


@contextmanager
def neighbours(count: int, *, seed: int = 0) -> Iterator[None]:
    """So many processes that compute for up to five seconds, rest for up to five, and so on."""
    ended = threading.Event()

    def come_and_go(lot: random.Random) -> None:
        while not ended.is_set():
            process = subprocess.Popen([sys.executable, "-c", LOOP])
            ended.wait(lot.uniform(0.5, LONGEST))
            process.kill()
            process.wait()
            ended.wait(lot.uniform(0.5, LONGEST))

    threads = [threading.Thread(target=come_and_go, args=(random.Random(f"{seed} {i}"),)) for i in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def main() -> int:
    """``python -m benchmarks.ab_counts.neighbours 2 COMMAND``: the command beside two, which it joins after a minute.

    By then the load average, which its page tells, has them in it.
    """
    if len(sys.argv) < 3 or not sys.argv[1].isdecimal():
        print("usage: python -m benchmarks.ab_counts.neighbours COUNT COMMAND", file=sys.stderr)
        return 2
    with neighbours(int(sys.argv[1])):
        time.sleep(60)
        return subprocess.run(sys.argv[2:]).returncode


if __name__ == "__main__":
    sys.exit(main())
