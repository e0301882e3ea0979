"""Reads the fields of a `config.json`: typed, within bounds, and none left over that could change the network.

Knows JSON objects and what is inert in them; nothing of an architecture.
"""

from collections.abc import Mapping
from typing import Any, NoReturn

from ..errors import WispError
from .inert import INERT_FIELDS, NEUTRAL_FIELDS, is_one_of

# What float32 holds with room for the products of a network.
LEAST_NUMBER, MOST_NUMBER = 1e-20, 1e20
LARGEST_INTEGER = 2**24


class UnknownField(WispError):
    """A field that no architecture reads and that is not known to be inert; `path` is what `--ignore-field` takes."""

    def __init__(self, where: str, name: str, value: Any, path: str | None) -> None:
        remedy = "it may change the network; if it does not, "
        remedy += "remove it" if path is None else f"compile with --ignore-field {path}"
        got = shortened(value)
        super().__init__(f"{where} field '{name}' is not supported", got=got, expected="no such field", remedy=remedy)
        self.path = path


def shortened(value: Any) -> str:
    """A value of a checkpoint as an error shows it."""
    try:
        shown = repr(value)
    except ValueError:  # of more digits than Python writes
        return f"a {type(value).__name__} too long to show"
    return shown if len(shown) <= 120 else f"{shown[:117]}..."


class FieldReader:
    """Reads the fields of a `config.json` object by name and, at the end, refuses every field nobody asked for.

    A null field counts as absent. `finish` lets pass what is inert, or neutral with the value that it has. `prefix` is
    what `--ignore-field` wants before a name; None where it has no say.
    """

    def __init__(
        self,
        fields: Mapping[str, Any],
        where: str = "config.json",
        inert: frozenset[str] = INERT_FIELDS,
        neutral: Mapping[str, tuple[Any, ...]] = NEUTRAL_FIELDS,
        prefix: str | None = "",
    ) -> None:
        self._fields, self._where, self._inert, self._neutral = fields, where, inert, neutral
        self._prefix = prefix
        self._read: set[str] = set()

    def get(self, name: str) -> Any:
        self._read.add(name)
        return self._fields.get(name)

    def refuse(self, name: str, expected: str, remedy: str | None = None) -> NoReturn:
        got = self._fields.get(name)
        shown = "nothing" if got is None else shortened(got)
        raise WispError(f"{self._where} field '{name}' is not supported", got=shown, expected=expected, remedy=remedy)

    def integer(
        self,
        name: str,
        default: int | None = None,
        multiple_of: int = 1,
        maximum: int = LARGEST_INTEGER,
        minimum: int = 1,
    ) -> int:
        """A positive integer; without a default it has to be there."""
        value = self.get(name)
        if value is None and default is not None:
            value = default
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or not minimum <= value <= maximum or value % multiple_of:
            kind = "a positive integer" if multiple_of == 1 else f"a positive multiple of {multiple_of}"
            self.refuse(name, f"{kind} " + (f"up to {maximum}" if minimum == 1 else f"from {minimum} to {maximum}"))
        return value

    def number(
        self, name: str, default: float | None = None, least: float = LEAST_NUMBER, most: float = MOST_NUMBER
    ) -> float:
        """A number within bounds that keep what is computed of it finite; without a default it has to be there."""
        value = self.get(name)
        if value is None and default is not None:
            return default
        if not _is_number(value, least, most):
            self.refuse(name, f"a number from {least:g} to {most:g}")
        return float(value)

    def boolean(self, name: str, default: bool) -> bool:
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.refuse(name, "true or false")
        return value

    def mapping(self, name: str) -> Mapping[str, Any] | None:
        value = self.get(name)
        if value is not None and not isinstance(value, Mapping):
            self.refuse(name, "an object")
        return value

    def numbers(
        self, name: str, length: int, least: float = LEAST_NUMBER, most: float = MOST_NUMBER
    ) -> tuple[float, ...]:
        """A list of exactly `length` numbers within bounds."""
        value = self.get(name)
        if not isinstance(value, list) or len(value) != length:
            self.refuse(name, f"a list of {length} numbers")
        if not all(_is_number(v, least, most) for v in value):
            self.refuse(name, f"a list of {length} numbers from {least:g} to {most:g}")
        return tuple(float(v) for v in value)

    def require(self, name: str, *supported: Any, remedy: str | None = None) -> None:
        """An optional field whose value has to be one of `supported`; the first is what absence means."""
        value = self.get(name)
        if value is not None and not is_one_of(value, supported):
            self.refuse(name, " or ".join(shortened(s) for s in supported), remedy)

    def finish(self) -> None:
        if self._fields.get("quantization_config"):
            self.refuse(
                "quantization_config",
                "an unquantized checkpoint",
                "compile the bfloat16, float16 or float32 checkpoint it was made from",
            )
        for name, value in self._fields.items():
            known = name in self._read or name in self._inert or name.startswith("_")
            if not known and value is not None and not is_one_of(value, self._neutral.get(name, ())):
                path = None if self._prefix is None else self._prefix + name
                raise UnknownField(self._where, name, value, path)


def _is_number(value: Any, least: float, most: float) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and least <= value <= most
