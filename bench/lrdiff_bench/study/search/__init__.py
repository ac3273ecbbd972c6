"""Trials: points, storage, batches, choice of winners."""
