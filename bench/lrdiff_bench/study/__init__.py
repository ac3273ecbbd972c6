"""Studies: does it help to train at different rates? Judged at equal tuning budget, with uncertainty.

::

    workload (what is trained)  <-  workloads/* (one file each)
                                <-  everything that proposes, trains, compares and reports
"""
