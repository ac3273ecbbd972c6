"""Rows a second of an epoch from a file, streamed and through a plain DataLoader, and the most memory each takes.

    python -m benchmarks.stream_rows --rows 10000000 --file rows.parquet

Each measurement is a process of its own, so that its peak memory is its own; the two ways take turns. Both train the
same network with the same optimizer in batches of 1024 from the same file. The plain way is a ``TensorDataset`` of all
rows behind ``DataLoader(batch_size=1024, shuffle=True)``; reading the file counts for both. It stops after ``--plain``
rows, for an epoch of it takes minutes.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

COLUMNS, BATCH, PIECE = 10, 1024, 2**20


def make_file(path: Path, rows: int) -> None:
    """Write rows of ten columns and a label, in pieces."""
    import polars as pl

    random = np.random.default_rng(0)
    weights = random.normal(size=COLUMNS).astype(np.float32)
    parts = []
    for begin in range(0, rows, PIECE):
        x = random.standard_normal((min(PIECE, rows - begin), COLUMNS), dtype=np.float32)
        label = (x @ weights + random.standard_normal(len(x), dtype=np.float32) > 0).astype(np.int8)
        frame = pl.DataFrame({f"x{i + 1}": x[:, i] for i in range(COLUMNS)} | {"label": label})
        if path.suffix == ".parquet":
            parts.append(frame)
        else:
            with path.open("ab" if begin else "wb") as file:
                frame.write_csv(file, include_header=not begin)
    if parts:
        pl.concat(parts).write_parquet(path)


def streamed(path: Path) -> dict[str, float]:
    """One epoch of the main job's training; the pass for the sample and that for the statistics are told apart."""
    from lrdiff_core import make_config, set_up, train

    config = make_config({"data": str(path), "target": "label", "stream": "always", "epochs": 1, "batch_size": BATCH})
    begun = time.perf_counter()
    table = config.load_table()
    sampled = time.perf_counter()
    setup = set_up(table, config)
    fitted = time.perf_counter()
    trained = train(setup)
    ended = time.perf_counter()
    rows = setup.rows.training_rows
    return {
        "rows": rows,
        "seconds": ended - fitted,
        "sample": sampled - begun,
        "statistics": fitted - sampled,
        "score": trained.last("test").score,
    }


def plain(path: Path, most: int) -> dict[str, float]:
    """What most people write."""
    import polars as pl
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    from lrdiff_core import AdamW

    torch.set_num_threads(1)
    hidden = max(16, COLUMNS)
    begun = time.perf_counter()
    frame = pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path)
    x = frame.drop("label").cast(pl.Float32).to_torch()
    y = frame["label"].cast(pl.Float32).to_torch()[:, None]
    x = (x - x.mean(dim=0)) / x.std(dim=0)
    read = time.perf_counter() - begun
    net = torch.nn.Sequential(torch.nn.Linear(COLUMNS, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, 1))
    optimizer = AdamW(net.parameters(), lr=0.01)
    seen, begun = 0, time.perf_counter()
    for inputs, wanted in DataLoader(TensorDataset(x, y), batch_size=BATCH, shuffle=True):
        optimizer.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(net(inputs), wanted).backward()
        optimizer.step()
        seen += len(inputs)
        if seen >= most:
            break
    seconds = time.perf_counter() - begun
    return {"rows": seen, "seconds": seconds + read * seen / len(x)}


def main() -> None:
    """Make the file if it is not there, measure both ways in turn, and print one line each and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--file", type=Path, default=Path("rows.parquet"), help="ends in .parquet or .csv")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--plain", type=int, default=500_000, help="rows after which the plain way stops")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way", choices=("streamed", "plain"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        found = streamed(given.file) if given.way == "streamed" else plain(given.file, given.plain)
        print(json.dumps(found | {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
        return
    if not given.file.exists():
        make_file(given.file, given.rows)
    rates: dict[str, list[float]] = {"streamed": [], "plain": []}
    for number in range(given.rounds):
        for way in rates:
            command = [sys.executable, "-m", "benchmarks.stream_rows", "--file", str(given.file), "--way", way]
            done = subprocess.run([*command, "--plain", str(given.plain)], capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(done.stderr)
            one = json.loads(done.stdout)
            rates[way].append(one["rows"] / one["seconds"])
            passes = f", sample {one['sample']:.1f} s, statistics {one['statistics']:.1f} s" if "sample" in one else ""
            print(
                f"round {number + 1}: {way:8} {one['rows']:.0f} rows in {one['seconds']:.2f} s: {rates[way][-1]:.0f} a "
                f"second, peak {one['peak'] / 2**30:.2f} GiB{passes}",
                flush=True,
            )
    ratios = [ours / theirs for ours, theirs in zip(rates["streamed"], rates["plain"], strict=True)]
    print(f"ratio: median {np.median(ratios):.1f}, from {min(ratios):.1f} to {max(ratios):.1f} in {len(ratios)} rounds")


if __name__ == "__main__":
    main()
