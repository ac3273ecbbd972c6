"""The foreign suites of the counts: name, where it comes from, commit, suite, and which of its cases.

Cases of 4 microseconds to a millisecond, and of 10 where asv_runner sets up before every single call: each of those is
timed by itself, after whatever the set-up left in the caches, where the first turns of an empty loop are not like the
others, and 5 % would be a few of them. Longer cases would make the campaign take days, and so would a set-up of more
than 20 milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ForeignSuite:
    """A suite in a clone that whoever runs the counts has made; nothing of it is in this repository."""

    name: str
    url: str
    commit: str
    path: str
    cases: tuple[str, ...]


SUITES = (
    ForeignSuite(
        name="packaging",
        url="https://github.com/pypa/packaging",
        commit="053c884615f2e83d80705251b447769ec2599653",
        path="benchmarks",
        cases=(
            "version.TimeVersionSuite.time_hash_warm",
            "specifiers.TimeSpecSuite.time_contains_complex_warm",
            "specifiers.TimeSpecSuite.time_filter_*",
            "utils.TimeUtils.time_canonicalize_name",
        ),
    ),
    ForeignSuite(
        name="networkx",
        url="https://github.com/networkx/networkx",
        commit="cfc6b79fc53f583aa15a79b2187ae30bd4f480ed",
        path="benchmarks/benchmarks",
        cases=(
            "benchmark_classes.GraphBenchmark.time_add_nodes_from('DiGraph')",
            "benchmark_classes.GraphBenchmark.time_remove_nodes_from('Graph')",
            "benchmark_classes.GraphBenchmark.time_subgraph('DiGraph')",
            "benchmark_classes.GraphBenchmark.time_subgraph_large('MultiGraph')",
            "benchmark_neighbors.NonNeighbors.time_complete(100)",
            "benchmark_neighbors.NonNeighbors.time_path_center(100)",
            "benchmark_neighbors.NonNeighbors.time_star_center(100)",
            "benchmark_neighbors.CommonNeighbors.time_complete(100)",
            "benchmark_neighbors.CommonNeighbors.time_star_rim_rim(100)",
        ),
    ),
    ForeignSuite(
        name="cattrs",
        url="https://github.com/python-attrs/cattrs",
        commit="82b02c07ca535a1ba656b935767d819eac9d383b",
        path="bench",
        cases=("bench/test_attrs_primitives.py*",),
    ),
)
