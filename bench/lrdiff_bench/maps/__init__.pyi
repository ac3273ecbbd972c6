from .findings import Findings as Findings, find as find
from .plan import MapRequest as MapRequest, make_plan as make_plan
from .run import compute_map as compute_map
from .store import open_map as open_map
from .workload import MapWorkload as MapWorkload
