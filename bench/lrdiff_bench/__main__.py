"""``python -m lrdiff_bench`` is the ``lrdiff`` command."""

import sys

from lrdiff_bench.cli import main

sys.exit(main())
