"""Twenty tables that packages ship: our default against scikit-learn's MLP and linear models, on the same rows."""
