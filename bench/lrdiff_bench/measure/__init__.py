"""Measuring: cases, the block engine, records, processes, comparison, history.

``lrdiff_bench.timing`` and ``lrdiff_bench.cases`` are the doors for who writes or times a case; the modules here do
the work, one concern each::

    case  <-  device, memory  <-  blocks  <-  registry, machine  <-  record  <-  store, child, process
          <-  suite  <-  shared, ab, pictures  <-  calibration, history  <-  kept  <-  commands (the command line)
"""
