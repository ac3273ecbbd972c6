"""Ship: ONNX, verification, runtimes, parity.

The public names stand in ``__init__.pyi``. Importing this package loads neither torch nor onnx: a name is fetched
from its module when it is first used, so that a command line that only prints its help stays fast.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
