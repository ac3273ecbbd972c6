"""The same prediction on every runtime."""
