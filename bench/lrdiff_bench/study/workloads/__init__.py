"""The workloads that come with the project, one file each."""
