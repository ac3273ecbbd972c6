"""The measuring process of a foreign suite: standard library alone, and no other import of this project."""
