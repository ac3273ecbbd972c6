"""What several workloads are made of: the digits, pretraining, and trials side by side."""
