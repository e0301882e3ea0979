"""Chat templates as transformers runs them: rendered, and parsed into a tree that the page can run without a parser.

Runs in the child of `sandbox.py`: a template is a stranger's program. The tree is Jinja2's own; its shape is in
`artifact/template.py`, which checks it. Knows templates and JSON values.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Environment, Template, TemplateError, nodes
from jinja2.compiler import find_undeclared
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

Tree = list[Any]
EXACT = 2**53  # what a JSON number holds exactly everywhere
SPECIAL = ("caller", "kwargs", "varargs")  # what a macro has when its body speaks of it


# ---------------------------------------------------------------------------------------------------------- rendering


class _Generation(Extension):
    """`{% generation %}`, which marks answers for training: a block that writes its body, as a call block does."""

    tags = {"generation"}  # noqa: RUF012 (as jinja2 declares it)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_support"), [], [], body).set_lineno(line)

    def _support(self, caller: Any) -> str:
        text: str = caller()
        return text


class _Namespace(Namespace):
    """Without attributes that begin with an underscore, as in transformers."""

    def __init__(*args: Any, **named: Any) -> None:
        self, values = args[0], dict(*args[1:], **named)
        for name in values:
            _Namespace._check(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _Namespace._check(name)
        Namespace.__setitem__(self, name, value)

    @staticmethod
    def _check(name: Any) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise TemplateError("a namespace has no attributes that begin with an underscore")


class _Dict:
    """`dict` as transformers gives it to templates: to call, and nothing that belongs to the type."""

    def __call__(self, *args: Any, **named: Any) -> dict[Any, Any]:
        return dict(*args, **named)

    def fromkeys(self, *args: Any, **named: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args, **named)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@lru_cache(maxsize=1)
def environment() -> Environment:
    """That of `transformers/utils/chat_template_utils.py`."""
    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    made.filters["tojson"] = _to_json
    made.globals["raise_exception"] = _raise_exception
    made.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
    made.globals["dict"] = _Dict()
    made.globals["namespace"] = _Namespace
    return made


def render(template: str, given: Mapping[str, Any]) -> str:
    """The text that a template makes of its variables. Raises whatever it raises."""
    messages = [_normalized(message) for message in given["messages"]]
    return _compiled(template).render(**{**given, "messages": messages})


@lru_cache(maxsize=1)
def _compiled(template: str) -> Template:
    return environment().from_string(template)


REASONING = ("reasoning_content", "thinking", "reasoning")


def _normalized(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """As transformers does it: without what is None, and its reasoning under the first two names, whichever it has."""
    message = {key: value for key, value in message.items() if value is not None}
    found = next((message[key] for key in REASONING if message.get(key) is not None), None)
    return message if found is None else {"thinking": found, **message, "reasoning_content": found}


# ------------------------------------------------------------------------------------------------------------- parsing


def parse(template: str) -> Tree:
    """A template's statements. Raises Jinja2's TemplateError, for what the page has nothing for too."""
    made = environment()
    made.compile(template)  # which finds more than the parser does: a `break` outside a loop, say
    return _statements(made.parse(template).body)


def _statements(body: Sequence[nodes.Node]) -> list[Any]:
    return [_statement(node) for node in body]


def _statement(node: nodes.Node) -> list[Any]:
    match node:
        case nodes.Output():
            return ["Output", _all(node.nodes)]
        case nodes.For():
            parts = (_expression(node.target), _expression(node.iter), _statements(node.body), _statements(node.else_))
            return ["For", *parts, _maybe(node.test), node.recursive]
        case nodes.If():
            branches = [(each.test, each.body) for each in (node, *node.elif_)]
            return ["If", [[_expression(test), _statements(body)] for test, body in branches], _statements(node.else_)]
        case nodes.Macro():
            return ["Macro", node.name, *_signature(node), _statements(node.body)]
        case nodes.CallBlock(call=nodes.Call(node=nodes.ExtensionAttribute())):
            return ["Generation", _statements(node.body)]
        case nodes.CallBlock():
            return ["CallBlock", _expression(node.call), *_signature(node), _statements(node.body)]
        case nodes.FilterBlock():
            return ["FilterBlock", _expression(node.filter), _statements(node.body)]
        case nodes.With():
            pairs = zip(node.targets, node.values, strict=True)
            return ["With", [[_expression(a), _expression(b)] for a, b in pairs], _statements(node.body)]
        case nodes.Assign():
            return ["Assign", _expression(node.target), _expression(node.node)]
        case nodes.AssignBlock():
            return ["AssignBlock", _expression(node.target), _maybe(node.filter), _statements(node.body)]
        case nodes.Block():
            return ["Block", node.name, node.scoped, _statements(node.body)]
        case nodes.Scope(body=[nodes.ScopedEvalContextModifier() as inner]):
            if any(_is_off(option) for option in inner.options):
                return ["Scope", _statements(inner.body)]
        case nodes.Break() | nodes.Continue():
            return [type(node).__name__]
        case nodes.Include() | nodes.Import() | nodes.FromImport() | nodes.Extends():
            return ["Fail", "no loader for this environment specified"]
    _unsupported(node)


def _is_off(option: nodes.Keyword) -> bool:
    return option.key == "autoescape" and isinstance(option.value, nodes.Const) and not option.value.value


def _signature(node: nodes.Macro | nodes.CallBlock) -> tuple[list[str], list[Any], list[str]]:
    used = find_undeclared(node.body, SPECIAL)
    return [argument.name for argument in node.args], _all(node.defaults), sorted(used)


def _all(expressions: Sequence[nodes.Node]) -> list[Any]:
    return [_expression(each) for each in expressions]


def _maybe(node: nodes.Node | None) -> list[Any] | None:
    return None if node is None else _expression(node)


def _call(node: nodes.Call | nodes.Filter | nodes.Test) -> tuple[Any, ...]:
    named = [[each.key, _expression(each.value)] for each in node.kwargs]
    return _all(node.args), named, _maybe(node.dyn_args), _maybe(node.dyn_kwargs)


def _expression(node: nodes.Node) -> list[Any]:
    kind = type(node).__name__
    match node:
        case nodes.Const():
            return _constant(node.value)
        case nodes.TemplateData():
            return ["Data", node.data]
        case nodes.Name():
            return ["Name", node.name]
        case nodes.NSRef():
            return ["NSRef", node.name, node.attr]
        case nodes.Tuple() | nodes.List():
            return [kind, _all(node.items)]
        case nodes.Dict():
            return ["Dict", [[_expression(pair.key), _expression(pair.value)] for pair in node.items]]
        case nodes.CondExpr():
            return ["CondExpr", _expression(node.test), _expression(node.expr1), _maybe(node.expr2)]
        case nodes.Filter() | nodes.Test():
            return [kind, _maybe(node.node), node.name, *_call(node)]
        case nodes.Call():
            return ["Call", _expression(node.node), *_call(node)]
        case nodes.Getattr():
            return ["Getattr", _expression(node.node), node.attr]
        case nodes.Getitem():
            return ["Getitem", _expression(node.node), _expression(node.arg)]
        case nodes.Slice():
            return ["Slice", _maybe(node.start), _maybe(node.stop), _maybe(node.step)]
        case nodes.Concat():
            return ["Concat", _all(node.nodes)]
        case nodes.Compare():
            return ["Compare", _expression(node.expr), [[each.op, _expression(each.expr)] for each in node.ops]]
        case nodes.BinExpr():
            return [kind, _expression(node.left), _expression(node.right)]
        case nodes.UnaryExpr():
            return [kind, _expression(node.node)]
    _unsupported(node)


def _constant(value: Any) -> list[Any]:
    if isinstance(value, float):
        return ["Float", repr(value)]
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        raise TemplateError(f"half a character in a text: {value!r}")
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= EXACT:
        return ["Integer", str(value)]
    return ["Const", value]


def _unsupported(node: nodes.Node) -> NoReturn:
    name = "autoescape" if isinstance(node, nodes.Scope) else type(node).__name__
    raise TemplateError(f"the page has nothing for {name}")
