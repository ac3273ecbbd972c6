"""The benchmark engine: timer, cases as data, processes, records; it knows no case."""
