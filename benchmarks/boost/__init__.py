"""Scripts of many shapes under `lrdiff boost`: `python -m benchmarks.boost` measures what it gains in each."""
