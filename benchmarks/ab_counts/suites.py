"""The foreign suites of the counts: name, where it comes from, commit, suite, and cases of less than a millisecond."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ForeignSuite:
    """A suite in a clone that whoever runs the counts has made; nothing of it is in this repository."""

    name: str
    url: str
    commit: str
    path: str
    only: tuple[str, ...]


SUITES = (
    ForeignSuite(
        name="packaging",
        url="https://github.com/pypa/packaging",
        commit="053c884615f2e83d80705251b447769ec2599653",
        path="benchmarks",
        only=("version.*", "specifiers.*", "utils.*", "requirement.*"),
    ),
    ForeignSuite(
        name="networkx",
        url="https://github.com/networkx/networkx",
        commit="cfc6b79fc53f583aa15a79b2187ae30bd4f480ed",
        path="benchmarks/benchmarks",
        only=("benchmark_classes.*", "benchmark_neighbors.*"),
    ),
    ForeignSuite(
        name="cattrs",
        url="https://github.com/python-attrs/cattrs",
        commit="82b02c07ca535a1ba656b935767d819eac9d383b",
        path="bench",
        only=("bench/test_primitives.py*", "bench/test_attrs_primitives.py*"),
    ),
)
