"""What the columns of a table are, and how numbers and dates are written."""

from lrdiff_core.data.kinds.recognise import recognise_all
from lrdiff_core.data.kinds.wishes import Wishes

__all__ = ["Wishes", "recognise_all"]
