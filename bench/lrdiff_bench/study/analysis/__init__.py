"""From trials to a verdict."""
