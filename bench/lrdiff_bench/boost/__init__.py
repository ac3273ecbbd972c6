"""``lrdiff boost``: somebody's training script, unchanged, with the optimizers that can be ours stepped by ours."""
