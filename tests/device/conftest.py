"""Fixtures for tests on a GPU through wgpu; Mesa's lavapipe, a software one, is enough."""

import pytest

from compiler.errors import WispError
from compiler.runtime.wgpu import request_adapter
from tests.conftest import unavailable
from tests.device.harness import Gpu


@pytest.fixture(scope="session")
def gpu() -> Gpu:
    """One device for all kernel tests."""
    try:
        adapter = request_adapter()
    except WispError as error:
        unavailable(str(error))
    return Gpu.open(adapter)
