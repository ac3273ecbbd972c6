"""Intervals, verdicts and the bootstrap over several levels of noise."""
