import pytest
import torch

collect_ignore_glob = ["boost_scripts/*"]  # what test_boost_trainers.py runs is no module of the tests


@pytest.fixture(autouse=True)
def one_thread():
    """Models of a few hundred numbers: a second thread only waits for the first, and for busy neighbours."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
