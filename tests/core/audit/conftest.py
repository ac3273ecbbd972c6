import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """Models of a few hundred numbers: a second thread only waits for the first, and for busy neighbours."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
