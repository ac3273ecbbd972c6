from .run.compare.single_rates import RateComparison as RateComparison, compare_single_rates as compare_single_rates
from .run.job import RunResult as RunResult, resume_job as resume_job, run_job as run_job
