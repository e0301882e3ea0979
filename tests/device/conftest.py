"""Fixtures for tests on a GPU through wgpu; Mesa's lavapipe, a software one, is enough."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from compiler.errors import WispError
from tests.conftest import unavailable

if TYPE_CHECKING:
    from tests.device.harness import Gpu


@pytest.fixture(scope="session")
def gpu() -> Gpu:
    """One device for all kernel tests."""
    # Not by the process that only hands out the tests: TVM and wgpu take seconds.
    from compiler.runtime.wgpu import request_adapter
    from tests.device.harness import Gpu

    try:
        adapter = request_adapter()
    except WispError as error:
        unavailable(str(error))
    return Gpu.open(adapter)
