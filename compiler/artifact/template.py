"""The shape of `chat_template_tree`: a chat template as Jinja2's parser reads it, which the page runs as it is.

A node is a list: the name of its kind, then its fields. The twin of `web/src/artifact/template-tree.ts`; FORMAT.md
says what the kinds mean. Knows JSON values alone.
"""

import re
from typing import Any, NoReturn

from ..errors import WispError

MOST_NODES = 200_000
MOST_DEPTH = 200
COMPARISONS = ("eq", "ne", "lt", "lteq", "gt", "gteq", "in", "notin")

# What a field holds: `e` an expression, `s` a text, `b` true or false, `B` statements, `v` a constant; `?`: or null;
# `*`: a list of them, of pairs where two are named.
_CALL = ("e*", "s e*", "e?", "e?")
_SIGNATURE = ("s*", "e*", "s*")
_TWO = ("e", "e")
EXPRESSIONS: dict[str, tuple[str, ...]] = {
    "Const": ("v",),
    "Integer": ("int",),
    "Float": ("float",),
    "Data": ("s",),
    "Name": ("s",),
    "NSRef": ("s", "s"),
    "Tuple": ("e*",),
    "List": ("e*",),
    "Concat": ("e*",),
    "Dict": ("e e*",),
    "CondExpr": ("e", "e", "e?"),
    "Filter": ("e?", "s", *_CALL),
    "Test": ("e", "s", *_CALL),
    "Call": ("e", *_CALL),
    "Getattr": ("e", "s"),
    "Getitem": _TWO,
    "Slice": ("e?", "e?", "e?"),
    "Compare": ("e", "op e*"),
    **dict.fromkeys(("And", "Or", "Add", "Sub", "Mul", "Div", "FloorDiv", "Mod", "Pow"), _TWO),
    **dict.fromkeys(("Not", "Neg", "Pos"), ("e",)),
}
STATEMENTS: dict[str, tuple[str, ...]] = {
    "Output": ("e*",),
    "For": ("e", "e", "B", "B", "e?", "b"),
    "If": ("e B*", "B"),
    "Macro": ("s", *_SIGNATURE, "B"),
    "CallBlock": ("e", *_SIGNATURE, "B"),
    "FilterBlock": ("e", "B"),
    "With": ("e e*", "B"),
    "Assign": _TWO,
    "AssignBlock": ("e", "e?", "B"),
    "Block": ("s", "b", "B"),
    "Scope": ("B",),
    "Generation": ("B",),
    "Break": (),
    "Continue": (),
    "Fail": ("s",),
}
_TEXTS = {
    "int": (re.compile(r"-?\d{1,5000}", re.ASCII), "an integer's digits"),
    "float": (re.compile(r"-?(?:inf|nan|[\d.]+(?:e[+-]?\d+)?)", re.ASCII), "a float's digits"),
}
EXACT = 2**53 - 1


def validate_tree(tree: Any, where: str) -> None:
    """Raises WispError where a tree is none, saying which part."""
    _Validator(where).field("B", tree, where, 0)


class _Validator:
    def __init__(self, where: str) -> None:
        self.where = where
        self.nodes = 0

    def node(self, kinds: dict[str, tuple[str, ...]], value: Any, where: str, depth: int) -> None:
        kind = _list(value, where)[0] if _list(value, where) else None
        fields = kinds.get(kind) if isinstance(kind, str) else None
        if fields is None:
            _fail(f"{where}[0]", kind, f"{'a statement' if kinds is STATEMENTS else 'an expression'} of Jinja2")
        if len(value) != len(fields) + 1:
            _fail(where, value, f"{len(fields)} fields after {kind!r}")
        self.nodes += 1
        if self.nodes > MOST_NODES:
            _fail(self.where, f"more than {MOST_NODES} nodes", f"at most {MOST_NODES}")
        if depth > MOST_DEPTH:
            _fail(where, f"{depth} levels", f"at most {MOST_DEPTH} levels")
        for i, field in enumerate(fields, 1):
            self.field(field, value[i], f"{where}[{i}]", depth + 1)

    def field(self, kind: str, value: Any, where: str, depth: int) -> None:
        match kind:
            case "e?" if value is None:
                pass
            case "e" | "e?":
                self.node(EXPRESSIONS, value, where, depth)
            case "B":
                for i, item in enumerate(_list(value, where)):
                    self.node(STATEMENTS, item, f"{where}[{i}]", depth)
            case "s" if not isinstance(value, str):
                _fail(where, value, "a text")
            case "b" if not isinstance(value, bool):
                _fail(where, value, "true or false")
            case "op" if value not in COMPARISONS:
                _fail(where, value, ", ".join(COMPARISONS))
            case "v" if not (value is None or isinstance(value, str | bool) or _is_exact(value)):
                _fail(where, value, "a text, an integer, true, false or null")
            case "int" | "float":
                pattern, expected = _TEXTS[kind]
                if not isinstance(value, str) or not pattern.fullmatch(value):
                    _fail(where, value, expected)
            case _ if kind.endswith("*"):
                self.items(kind[:-1].split(" "), value, where, depth)

    def items(self, kinds: list[str], value: Any, where: str, depth: int) -> None:
        for i, item in enumerate(_list(value, where)):
            place = f"{where}[{i}]"
            if len(kinds) == 1:
                self.field(kinds[0], item, place, depth)
                continue
            if len(_list(item, place)) != len(kinds):
                _fail(place, item, "a pair")
            for j, kind in enumerate(kinds):
                self.field(kind, item[j], f"{place}[{j}]", depth)


def _is_exact(value: Any) -> bool:
    return isinstance(value, int) and abs(value) <= EXACT


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        _fail(where, value, "a list")
    return value


def _fail(where: str, got: Any, expected: str) -> NoReturn:
    text = repr(got)
    raise WispError(where, got=text if len(text) <= 80 else f"{text[:77]}...", expected=expected)
