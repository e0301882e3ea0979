"""Typed access to a GGUF file's metadata: a value is there and of its kind, or a WispError names its key.

Knows nothing of what the keys mean, but which of them were asked for, so that those nobody read can be refused.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from compiler.errors import WispError


class Metadata:
    """The metadata of one file; `prefix` is put before names that begin with a dot (`.block_count`)."""

    def __init__(self, file: str, values: Mapping[str, Any], prefix: str = "") -> None:
        self.file, self.prefix = file, prefix
        self._values = values
        self._read: set[str] = set()

    def with_prefix(self, prefix: str) -> "Metadata":
        """The same metadata, for the names of one architecture."""
        return Metadata(self.file, self._values, prefix)

    def _key(self, name: str) -> str:
        return self.prefix + name if name.startswith(".") else name

    def get(self, name: str) -> Any:
        key = self._key(name)
        self._read.add(key)
        return self._values.get(key)

    def refuse(self, name: str, expected: str, remedy: str | None = None) -> NoReturn:
        value = self.get(name)
        shown = repr(value) if not isinstance(value, list) else f"a list of {len(value)}"
        raise WispError(
            f"{self.file}: metadata '{self._key(name)}' is not usable",
            got="nothing" if value is None else shown[:200],
            expected=expected,
            remedy=remedy or "convert the original checkpoint again",
        )

    def integer(self, name: str, default: int | None = None) -> int:
        """A whole number, not negative; a list that repeats one counts as that one."""
        value = self.get(name)
        if isinstance(value, list) and value and all(v == value[0] for v in value):
            value = value[0]
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            self.refuse(name, "one whole number for all layers" if isinstance(value, list) else "a whole number")
        return value

    def optional_integer(self, name: str) -> int | None:
        return None if self.get(name) is None else self.integer(name)

    def number(self, name: str, default: float | None = None) -> float:
        """A positive finite number."""
        value = self.get(name)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            self.refuse(name, "a positive number")
        return float(value)

    def boolean(self, name: str, default: bool) -> bool:
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.refuse(name, "true or false")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        value = self.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            self.refuse(name, "a text")
        return value

    def texts(self, name: str) -> list[str]:
        value = self.get(name)
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            self.refuse(name, "a list of texts")
        return value

    def numbers(self, name: str, length: int) -> list[float]:
        """A list of exactly `length` finite numbers."""
        value = self.get(name)
        if not isinstance(value, list) or len(value) != length:
            self.refuse(name, f"a list of {length} numbers, one for each token")
        if not all(isinstance(v, int | float) and math.isfinite(v) for v in value):
            self.refuse(name, "finite numbers")
        return value

    def unread(self, inert: Sequence[str]) -> list[str]:
        """Keys of the prefix that nobody asked for, that say something, and that are not `inert`."""
        known = self._read | {self._key(name) for name in inert}
        return [k for k, v in self._values.items() if k.startswith(self.prefix + ".") and v and k not in known]
