"""Where the numbers of a tensor lie: order, gaps, kind (``layout.py``); the part of a sharded one (``shards.py``)."""
