"""Rates against single rates, models against baselines, steps against steps: what a run is compared with."""
