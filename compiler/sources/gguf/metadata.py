"""Typed access to a GGUF file's metadata: a value is there and of its kind, or a WispError names its key.

Knows nothing of what the keys mean, but which of them were asked for, so that those nobody read can be refused.
"""

from collections.abc import Collection, Mapping
from typing import Any, NoReturn

from ...errors import WispError
from ...models.fields import LARGEST_INTEGER, LEAST_NUMBER, MOST_NUMBER


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

    def integer(self, name: str, default: int | None = None, least: int = 0) -> int:
        """A whole number that a network can have; a list that repeats one counts as that one."""
        value = self.get(name)
        if isinstance(value, list) and value and all(v == value[0] for v in value):
            value = value[0]
        if value is None and default is not None:
            return default
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or not least <= value <= LARGEST_INTEGER:
            kind = "one whole number for all layers" if isinstance(value, list) else "a whole number"
            self.refuse(name, f"{kind} from {least} to {LARGEST_INTEGER}")
        return value

    def optional_integer(self, name: str) -> int | None:
        return None if self.get(name) is None else self.integer(name)

    def number(self, name: str, default: float | None = None) -> float:
        """A positive number that float32 holds with room for products."""
        value = self.get(name)
        if value is None and default is not None:
            return default
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not LEAST_NUMBER <= value <= MOST_NUMBER:
            self.refuse(name, f"a number from {LEAST_NUMBER:g} to {MOST_NUMBER:g}")
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
        if not all(isinstance(v, int | float) and abs(v) <= MOST_NUMBER for v in value):
            self.refuse(name, f"numbers up to {MOST_NUMBER:g}")
        return value

    def unread(self, inert: Collection[str], neutral: Mapping[str, Any], ignored: Collection[str]) -> list[str]:
        """Keys of the prefix that nobody asked for, neither inert nor `ignored`, and not of their `neutral` value."""
        known = self._read | {self._key(name) for name in inert} | set(ignored)
        plain = {self._key(name): value for name, value in neutral.items()}
        return [
            key
            for key, value in self._values.items()
            if key.startswith(self.prefix + ".") and key not in known and not (key in plain and value == plain[key])
        ]
