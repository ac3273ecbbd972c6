"""What the commands of ``lrdiff study`` do; each returns the exit status.

::

    sources, one_study, finished  <-  run
"""
