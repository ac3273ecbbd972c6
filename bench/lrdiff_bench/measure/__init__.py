"""Measuring: what an optimizer step, a training or an export costs.

``engine`` measures (blocks of steps, processes, records, comparison) and knows no case; ``cases`` are what is measured.
The modules here are ``lrdiff bench``: command, options, screen, page, pictures, and the history over commits.
"""
