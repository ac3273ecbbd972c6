"""Files of more rows than memory holds: read in pieces, split by row number, with a sample that stands for the rest."""

from lrdiff_core.data.streamed.pieces import MOST_CELLS, is_large
from lrdiff_core.data.streamed.sample import SAMPLE_ROWS, take_sample
from lrdiff_core.data.streamed.stream import Stream

__all__ = ["MOST_CELLS", "SAMPLE_ROWS", "Stream", "is_large", "take_sample"]
