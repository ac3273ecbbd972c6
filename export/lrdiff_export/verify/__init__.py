"""Inputs to try, tolerances, comparison, golden vectors, diagnosis."""
