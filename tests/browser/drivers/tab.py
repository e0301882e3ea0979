"""What a test needs of a browser, whichever it is. Knows of Wisp only that its page marks parts with `data-testid`."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Protocol

# Keys of `Tab.press`, in WebDriver's code points.
KEYS = {"Enter": "\ue007", "Escape": "\ue00c"}

_VISIBLE = """(id) => [...document.querySelectorAll(`[data-testid=${id}]`)]
  .filter((element) => element.getClientRects().length > 0)"""


class JavaScriptError(AssertionError):
    """A function that a test evaluated has thrown."""


class Tab(ABC):
    """One page with caches and storage of its own, and a person's hands on it."""

    @abstractmethod
    def goto(self, url: str) -> None:
        """Returns once the page has loaded."""

    @abstractmethod
    def reload(self) -> None: ...

    @abstractmethod
    def evaluate(self, function: str, argument: Any = None) -> Any:
        """What a JavaScript function, async or not, makes of one argument. Both are JSON; undefined is None."""

    @abstractmethod
    def click(self, test_id: str) -> None: ...

    @abstractmethod
    def type(self, test_id: str, text: str) -> None:
        """Key by key, into what is there already."""

    @abstractmethod
    def press(self, key: str) -> None:
        """One of KEYS, where the focus is."""

    @abstractmethod
    def screenshot(self, path: Path) -> None:
        """A PNG of what is visible."""

    @abstractmethod
    def close(self) -> None: ...

    def wait(self, condition: str, argument: Any = None, seconds: float = 120) -> None:
        """Until the JavaScript function returns something true. The limit only ends a test that has failed."""
        until = time.monotonic() + seconds
        while not self.evaluate(condition, argument):
            if time.monotonic() > until:
                page = self.evaluate("() => document.body.innerText")
                raise AssertionError(f"not within {seconds} s: {condition} of {argument!r}; the page says\n{page}")
            time.sleep(0.1)

    def wait_visible(self, test_id: str) -> None:
        self.wait(f"(id) => ({_VISIBLE})(id).length > 0", test_id)

    def wait_count(self, test_id: str, count: int) -> None:
        self.wait("([id, n]) => document.querySelectorAll(`[data-testid=${id}]`).length === n", [test_id, count])

    def wait_text(self, test_id: str, text: str) -> None:
        """Until the last such element that can be seen contains the text."""
        self.wait(f"([id, text]) => ({_VISIBLE})(id).at(-1)?.innerText.includes(text)", [test_id, text])

    def text(self, test_id: str) -> str:
        """Of the last such element that can be seen."""
        texts: list[str] = self.evaluate(f"(id) => ({_VISIBLE})(id).map((element) => element.innerText)", test_id)
        assert texts, f"no element has the test id {test_id}"
        return texts[-1]


class Driver(Protocol):
    """A running browser."""

    def new_tab(self) -> Tab: ...

    def close(self) -> None: ...


class Unavailable(Exception):
    """This machine lacks the browser; the message says what to install."""


def as_text(function: str) -> str:
    """The same function with JSON texts in and out, for protocols with value types of their own."""
    return f"async (text) => JSON.stringify((await ({function})(JSON.parse(text))) ?? null)"


def read_text(value: str) -> Any:
    return json.loads(value)
