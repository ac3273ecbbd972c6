"""Measure: timing, cases, statistics, the main job and the `lrdiff` command."""
