"""The update rules, a file each: the optimizer, and beside it what the compiled kernel makes of its rule."""
