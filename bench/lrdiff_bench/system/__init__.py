"""This machine and this project on it: machine, run folders, settings, clusters, a user's own factories."""
