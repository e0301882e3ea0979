"""Fixtures for every group of tests: the demo artifact, and what happens when a device is missing."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).resolve().parent.parent


def unavailable(reason: str) -> NoReturn:
    """Skips where a developer's machine lacks a device; fails on CI, where it has to be there."""
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(f"{reason} (a failure because CI is set)", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session", autouse=True)
def _lowered_once() -> Iterator[None]:
    """Builds of the tests keep what they lower by what it was lowered from, and have no alternatives."""
    from tests.lowering import builds_lower_once

    with builds_lower_once():
        yield


@pytest.fixture
def with_alternatives(_lowered_once: None) -> Iterator[None]:
    """Builds of a test have the alternatives that those of a user have."""
    from tests.lowering import builds_lower_once

    with builds_lower_once(alternatives=True):
        yield


@pytest.fixture(scope="session")
def artifacts_dir(request: pytest.FixtureRequest) -> Path:
    """Where tests keep compiled artifacts between sessions; each is compiled again when its inputs change."""
    return request.config.cache.mkdir("wisp-artifacts")


@pytest.fixture(scope="session")
def artifact_demo(artifacts_dir: Path) -> Path:
    """The demo model, as a user compiles it; once, however many processes the tests run in."""
    from filelock import FileLock

    from compiler.config import resolve_config
    from compiler.incremental import build_if_stale
    from tests.lowering import builds_lower_once

    with FileLock(artifacts_dir / ".demo.lock"), builds_lower_once(alternatives=True):
        return build_if_stale(resolve_config(str(ROOT / "configs" / "demo"), output=artifacts_dir / "demo"))
