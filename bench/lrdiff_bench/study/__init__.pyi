from .own_training import FunctionWorkload as FunctionWorkload, training as training
from .workloads.workload import Outcomes as Outcomes, Scheme as Scheme, Trials as Trials, Workload as Workload
