"""Benchmarks of other people's projects, asv's or pytest-benchmark's, judged between two commits: ``lrdiff ab``.

``inside`` runs in the foreign environment, with the standard library and what the suite itself needs (asv_runner, or
pytest and pytest-benchmark); everything else drives it from here.
"""
