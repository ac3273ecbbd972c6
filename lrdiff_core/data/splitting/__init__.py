"""How the rows of a table come into parts: what a split respects, how it is read, how rows are drawn."""
