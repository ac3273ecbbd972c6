"""The rates of a model: what a plan gives each parameter, a range test, the audit of a script."""
