"""Ship: ONNX, verification, runtimes, parity.

The public names stand in ``__init__.pyi``. Importing this package loads neither torch nor onnx: a name is fetched
from its module when it is first used, so that a command line that only prints its help stays fast.
"""

import os

import lazy_loader

# ONNX Runtime's own switch, read when it is loaded: without it its wheel keeps an identifier below ~/.cache/Microsoft
# and looks for Microsoft's telemetry host. Set it to 0 beforehand to have that.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
