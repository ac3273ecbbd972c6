from .api import TunedRates as TunedRates, TuneOptions as TuneOptions, tune_rates as tune_rates
from .found import FoundRates as FoundRates
from .proof import Answer as Answer
from .search import find_rates as find_rates
