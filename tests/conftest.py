"""Options of the whole suite."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch loads: small matrices gain nothing from threads, and a busy machine loses much

import pytest  # noqa: E402
import torch  # noqa: E402


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="device of the tests that train networks: cpu (default), cuda or mps")


@pytest.fixture(scope="session")
def device(request) -> torch.device:
    """The device asked for with --device; `make test PYTEST_ARGS="--device cuda"` runs the same tests on a GPU."""
    return torch.device(request.config.getoption("--device"))
