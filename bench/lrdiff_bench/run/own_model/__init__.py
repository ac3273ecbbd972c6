"""A model of one's own in the main job: the same stages, by what its factory says."""
