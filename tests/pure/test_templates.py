"""Chat templates as trees: what Jinja2's parser makes of them, the validator, and the conversations that try them.

What the page makes of the same trees is in `web/tests/text/jinja.test.ts`, on the same file.
"""

import json
from typing import Any

import pytest

from compiler.artifact.template import EXPRESSIONS, STATEMENTS, validate_tree
from compiler.check.conversations import PLAIN, sample_variables
from compiler.errors import WispError
from compiler.sources.jinja import parse, render
from compiler.sources.sandbox import parse_template
from tests.golden.write_templates import FILE, SPECIAL, rendered, tree_of

GOLDEN = json.loads(FILE.read_text(encoding="utf-8"))
CONSTRUCTS: dict[str, dict[str, Any]] = GOLDEN["constructs"]


@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")
def test_the_file_is_what_transformers_says_now() -> None:
    assert len(CONSTRUCTS) > 400
    for name, entry in CONSTRUCTS.items():
        assert rendered(entry["source"], entry.get("messages", GOLDEN["messages"])) == entry["expected"], name
        assert tree_of(entry["source"]) == entry["tree"], name


def kinds_of(tree: Any) -> set[str]:
    if not isinstance(tree, list):
        return set()
    own = {tree[0]} if tree and isinstance(tree[0], str) else set()
    return own.union(*map(kinds_of, tree))


def test_every_kind_of_node_is_in_the_file_and_valid() -> None:
    trees = [entry["tree"] for entry in CONSTRUCTS.values() if entry["tree"] is not None]
    for tree in trees:
        validate_tree(tree, "tree")
    assert {*EXPRESSIONS, *STATEMENTS} <= set().union(*map(kinds_of, trees))


@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")
def test_what_the_check_renders_by_is_what_transformers_renders_by() -> None:
    """But for the clock, which the file stops, and for what is None, which transformers leaves out before."""
    for name, entry in CONSTRUCTS.items():
        messages = entry.get("messages", GOLDEN["messages"])
        if "strftime" in entry["source"] or any(None in message.values() for message in messages):
            continue
        given = {"messages": messages, "tools": None, "documents": None}
        try:
            got = render(entry["source"], {**given, "add_generation_prompt": False, **SPECIAL})
        except Exception:  # whatever a template raises
            got = None
        assert got == entry["expected"], name


@pytest.mark.parametrize(
    ("template", "got"),
    [
        ("{% for m in messages %}", "Unexpected end of template"),
        ("{{ messages[ }}", "unexpected"),
        ("{% nonsense %}", "nonsense"),
        ("{% break %}", "'break' outside loop"),
        ("{% autoescape true %}{{ messages }}{% endautoescape %}", "nothing for autoescape"),
        ("{{ '\\ud800' }}", "half a character"),
    ],
)
def test_what_is_no_template_is_refused(template: str, got: str) -> None:
    with pytest.raises(WispError, match="chat template") as raised:
        parse_template(template)
    assert got in str(raised.value)


def test_line_ends_of_windows_are_line_feeds() -> None:
    assert parse("a\r\n{% if true %}\r\nb\r\n{% endif %}") == parse("a\n{% if true %}\nb\n{% endif %}")


def test_samples_speak_of_what_the_template_speaks_of() -> None:
    tree = parse(
        "{% for m in messages %}{% if m.role == 'observer' %}{{ m.mood }}{% elif '<x>' in m.content %}{{ shout }}"
        "{% endif %}{% endfor %}"
    )
    samples = sample_variables(tree)
    messages = [message for sample in samples for message in sample["messages"]]
    assert [sample["messages"] for sample in samples[: len(PLAIN)]] == [list(messages) for messages in PLAIN]
    assert any(message["role"] == "observer" for message in messages)
    assert any("mood" in message for message in messages)
    assert any("<x>" in message["content"] for message in messages if isinstance(message.get("content"), str))
    assert {sample["shout"] for sample in samples if isinstance(sample.get("shout"), bool)} == {True, False}
    assert {bool(sample["tools"]) for sample in samples} == {True, False}
