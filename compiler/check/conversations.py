"""Conversations that take a chat template through its branches: of every kind, and with what the template speaks of.

A template names the roles, fields, variables and texts that it treats in their own way; its tree says which. Each
becomes part of a conversation, beside those that people and programs have. Knows the tree's nodes; renders nothing.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..sources.sandbox import Tree

Message = Mapping[str, Any]
Variables = Mapping[str, Any]

_QUESTION = {"role": "user", "content": "  What is 2 + 2?\n"}
_ANSWER = {"role": "assistant", "content": 'It\'s 4: "vier", ‘四’ 🙂 <b>'}
_AGAIN = {"role": "user", "content": "And {{ 3 }} more?"}
_SYSTEM = {"role": "system", "content": "Be brief.\n"}
_THOUGHT = {"role": "assistant", "content": "<think>\n\ntwo and two\n</think>\n\n    indented\n"}
_ARGUMENTS = {"city": "Köln", "days": 3, "exact": True, "unit": None, "where": {"lat": 50.9, "tags": ["a", "b"]}}
_CALL = {"id": "call_123456", "type": "function", "function": {"name": "weather", "arguments": _ARGUMENTS}}
_TEXT_CALL = {"id": "call_7", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Köln"}'}}
_BARE_CALL = {"name": "weather", "arguments": {"city": "Köln"}}
_CALLING = {"role": "assistant", "content": "", "tool_calls": [_CALL]}
_RESULT = {"role": "tool", "content": '{"result": "☀"}', "name": "weather", "tool_call_id": "call_123456"}
_PARTS = [{"type": "text", "text": "first"}, {"type": "text", "text": " second\n"}]
_TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": 'The weather <of> a "city"',
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "where"}, "unit": {"enum": ["C", "F"]}},
            "required": ["city"],
        },
        "return": {"type": "string"},
    },
}
_DOCUMENTS = [{"title": "A title", "text": "Some text.\n"}, {"title": "B", "text": "", "contents": "more"}]

# Any chat template answers one of these.
PLAIN: tuple[tuple[Message, ...], ...] = (
    (_QUESTION,),
    (_QUESTION, _ANSWER, _AGAIN),
    (_SYSTEM, _QUESTION),
    (_SYSTEM, _QUESTION, _ANSWER, _AGAIN),
)
_OTHERS: tuple[tuple[Message, ...], ...] = (
    (),
    (_SYSTEM,),
    (_QUESTION, _ANSWER),
    (_QUESTION, _AGAIN),
    (_ANSWER, _AGAIN),
    (_QUESTION, _SYSTEM, _AGAIN),
    (_SYSTEM, _SYSTEM, _QUESTION),
    (_SYSTEM, _QUESTION, _ANSWER, _ANSWER, _AGAIN),
    (_QUESTION, _THOUGHT),
    (_QUESTION, _THOUGHT, _AGAIN),
    (_QUESTION, {**_ANSWER, "reasoning_content": "\ntwo and two\n"}, _AGAIN),
    (_QUESTION, _CALLING, _RESULT, {**_ANSWER, "reasoning_content": "so\n"}),
    ({"role": "user", "content": ""}, {"role": "assistant", "content": ""}, {"role": "user", "content": " \n\t"}),
    ({"role": "system", "content": ""}, _QUESTION),
    (_QUESTION, {"role": "assistant", "content": None}, _AGAIN),
    ({"role": "user", "content": None},),
    ({"role": "user", "content": _PARTS}, {"role": "assistant", "content": _PARTS}, _AGAIN),
    ({"role": "system", "content": _PARTS}, {"role": "user", "content": [{"type": "image"}, *_PARTS]}),
    (
        {"role": "system", "content": _PARTS},
        {"role": "user", "content": [{"type": "video", "video": "v"}, {"type": "image_url"}]},
    ),
    (_QUESTION, {**_CALLING, "content": None}, {**_RESULT, "content": _PARTS}),
    (_SYSTEM, _QUESTION, _CALLING, _RESULT, _RESULT, _ANSWER, _AGAIN),
    (_QUESTION, {**_CALLING, "content": "Let me see."}, _RESULT),
    (_QUESTION, {**_CALLING, "tool_calls": [_CALL, _TEXT_CALL]}, _RESULT, _RESULT, _ANSWER),
    (_QUESTION, {**_CALLING, "tool_calls": [_BARE_CALL]}, _RESULT),
    (_QUESTION, {**_CALLING, "tool_calls": [_TEXT_CALL]}, {"role": "tool", "content": "plain"}, _AGAIN),
    (_QUESTION, {**_CALLING, "tool_calls": []}, _AGAIN),
    (_QUESTION, {**_THOUGHT, "tool_calls": [_CALL]}, _RESULT, _CALLING, _RESULT),
    (_QUESTION, {"role": "assistant", "tool_calls": [_CALL]}, {**_RESULT, "content": {"result": 4, "list": [1.5]}}),
    (
        _QUESTION,
        {**_ANSWER, "content": "a <tool_call>{}</tool_call>"},
        {"role": "user", "content": "<tool_response>\nx\n</tool_response>"},
    ),
    (_RESULT, _QUESTION),
    (_QUESTION, _CALLING, {**_RESULT, "content": None}),
    ({"role": "developer", "content": "Be kind."}, _QUESTION),
    ({"role": "user", "content": 7},),
)
_MOST = 24  # of each kind that a template may name
_GIVEN = {"messages", "tools", "documents", "add_generation_prompt"}
_PROVIDED = {
    "range",
    "dict",
    "lipsum",
    "cycler",
    "joiner",
    "namespace",
    "raise_exception",
    "strftime_now",
    "loop",
    "self",
}


def sample_variables(tree: Tree) -> list[Variables]:
    """What a template is given besides the special tokens, a set a conversation; those of PLAIN come first."""
    found: list[Variables] = [_with(messages) for messages in PLAIN]
    found += [_with(messages) for messages in _OTHERS]
    found += [_with(messages, add_generation_prompt=False) for messages in (*PLAIN, *_OTHERS)]
    given: tuple[dict[str, Any], ...] = (
        {"tools": [_TOOL]},
        {"tools": [_TOOL, {"name": "bare", "parameters": {}}]},
        {"tools": []},
        {"documents": _DOCUMENTS},
    )
    found += [_with(messages, **more) for more in given for messages in (*PLAIN, *_OTHERS)]
    found += [_with(messages) for messages in _of_the_template(tree)]
    found += [
        _with(messages, **more) for more in _settings(tree) for messages in (*PLAIN, *_OTHERS[8:14], *_OTHERS[20:24])
    ]
    return found


def _with(messages: Sequence[Message], **more: Any) -> Variables:
    given = {"messages": list(messages), "tools": None, "documents": None, "add_generation_prompt": True}
    return {**given, **more}


def _of_the_template(tree: Tree) -> Iterator[tuple[Message, ...]]:
    """Its texts as roles and within contents, its fields in messages."""
    texts = list(dict.fromkeys(node[1] for node in _nodes(tree, "Const") if isinstance(node[1], str) and node[1]))
    for role in [text for text in texts if re.fullmatch(r"[a-z_]{3,24}", text)][:_MOST]:
        odd = {"role": role, "content": f"as {role}"}
        yield (_QUESTION, odd, _AGAIN)
        yield (odd, _QUESTION, _ANSWER)
    for text in [text for text in texts if not text.isidentifier()][:_MOST]:
        for around in (f"before {text} after", f"{text}\nafter", f"before{text}"):
            yield ({"role": "user", "content": around}, {"role": "assistant", "content": around}, _AGAIN)
            yield ({"role": "system", "content": around}, {"role": "user", "content": around}, _CALLING, _RESULT)
    fields = [node[2] for node in _nodes(tree, "Getattr")]
    fields += [node[2][1] for node in _nodes(tree, "Getitem") if node[2][0] == "Const" and isinstance(node[2][1], str)]
    calls = [node[3][0][1] for node in _nodes(tree, "Call") if node[3] and node[3][0][0] == "Const"]
    names = dict.fromkeys(name for name in (*fields, *calls) if isinstance(name, str) and name.isidentifier())
    for name in [name for name in names if name not in ("role", "content")][:_MOST]:
        for value in ("some text", True, [{"type": "text", "text": "part", "name": "n"}]):
            yield (_QUESTION, {**_ANSWER, name: value}, {**_AGAIN, name: value})
            yield ({**_SYSTEM, name: value}, _QUESTION, {**_CALLING, name: value}, {**_RESULT, name: value})


def _settings(tree: Tree) -> Iterator[Mapping[str, Any]]:
    """Values for the variables that it asks for and nobody gives: switches, and texts that it compares with them."""
    assigned = {name for node in _nodes(tree) for name in _assigned(node)}
    asked = dict.fromkeys(node[1] for node in _nodes(tree, "Name"))
    tested = {
        node[1][1] for node in _nodes(tree, "Test") if node[2] in ("defined", "undefined") and node[1][0] == "Name"
    }
    own = (assigned - tested) | _GIVEN | _PROVIDED
    free = [name for name in asked if name not in own and not name.endswith("_token")][:8]
    texts = [node[1] for node in _nodes(tree, "Const") if isinstance(node[1], str) and node[1].isidentifier()][:8]
    for name in free:
        for value in (True, False, "some text", [], {"a": "b"}, *texts):
            yield {name: value}
        for switch in (True, False):
            yield {name: switch, "tools": [_TOOL]}
    for one, other in itertools.combinations(free[:4], 2):
        yield {one: True, other: True}
        yield {one: "some text", other: [_TOOL]}


def _assigned(node: Sequence[Any]) -> Iterator[str]:
    match node:
        case ["Assign" | "AssignBlock" | "For", target, *_]:
            yield from (inner[1] for inner in _nodes([target], "Name"))
        case ["Macro", name, parameters, *_]:
            yield from (name, *parameters)
        case ["CallBlock", _, parameters, *_]:
            yield from parameters
        case ["With", pairs, *_]:
            yield from (inner[1] for target, _ in pairs for inner in _nodes([target], "Name"))


def _nodes(tree: Sequence[Any], kind: str | None = None) -> Iterator[list[Any]]:
    """Every node of a tree, of one kind or of all."""
    for item in tree:
        if isinstance(item, list):
            if item and isinstance(item[0], str) and (kind is None or item[0] == kind):
                yield item
            yield from _nodes(item, kind)
