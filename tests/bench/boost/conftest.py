import pytest

from lrdiff_core.devices import torch_threads

collect_ignore_glob = ["scripts/*"]  # what the tests run is no module of theirs


@pytest.fixture(autouse=True)
def _one_thread():
    """On a busy machine every small parallel region of torch's can cost 8 ms."""
    with torch_threads(1):
        yield
