"""Options of the whole suite."""

import pytest
import torch


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="device of the tests that train networks: cpu (default), cuda or mps")


@pytest.fixture(scope="session")
def device(request) -> torch.device:
    """The device asked for with --device; `make test PYTEST_ARGS="--device cuda"` runs the same tests on a GPU."""
    return torch.device(request.config.getoption("--device"))
