"""``make gpu``: everything that needs an accelerator, in one command, with nothing from the network.

``python -m lrdiff_bench.gpu [--device auto|cuda|mps|cpu] [--quick] [--part NAME]... [--out DIR]`` runs each part in a
process of its own with a time of its own, and writes ``gpu.json`` and ``gpu.md``. A part that fails is a line of the
table; the others go on.
"""
