"""The lesson: the example that the project began with, trained in the reader's own browser."""
