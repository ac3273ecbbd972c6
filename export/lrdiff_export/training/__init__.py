"""The same training in every implementation."""
