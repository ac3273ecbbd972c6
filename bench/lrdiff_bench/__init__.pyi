from .run.job import RunResult as RunResult
from .run.job import run_job as run_job
from .run.single_rates import RateComparison as RateComparison
from .run.single_rates import compare_single_rates as compare_single_rates
