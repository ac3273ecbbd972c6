"""Several processes that train one model: how they were started, and what each of them does."""
