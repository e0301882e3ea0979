"""Writes into templates.json what transformers makes of each construct in it, and the syntax trees that pages run.

`python -m tests.golden.write_templates`, after a construct was added: its `source`, and `messages` of its own.
`constructs` are small templates; `hostile` are those that a page has to end.
"""

import json
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest import mock

from transformers.utils import chat_template_utils

from compiler.sources.jinja import parse

FILE = Path(__file__).with_name("templates.json")
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}


class _Clock(datetime):
    """What `strftime_now` says, in Python and in the page's tests."""

    @classmethod
    def now(cls, tz: Any = None) -> "_Clock":
        return cls(2026, 11, 3, 14, 5, 9)


def rendered(source: str, messages: list[dict[str, Any]]) -> str | None:
    """By transformers' own environment; None for what it refuses."""
    given = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": False}
    with mock.patch.object(chat_template_utils, "datetime", _Clock):
        try:
            return chat_template_utils._compile_jinja_template(source).render(**given, **SPECIAL)
        except Exception:  # whatever a template raises
            return None


def tree_of(source: str) -> list[Any] | None:
    try:
        return parse(source)
    except Exception:  # the same
        return None


def main() -> None:
    content = json.loads(FILE.read_text(encoding="utf-8"))
    for entry in content["constructs"].values():
        entry["expected"] = rendered(entry["source"], entry.get("messages", content["messages"]))
        entry["tree"] = tree_of(entry["source"])
    for entry in content["hostile"].values():
        entry["tree"] = parse(entry["source"])
    parts = [f' "messages": {json.dumps(content["messages"])}']
    for kind in ("constructs", "hostile"):
        lines = (f"  {json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in content[kind].items())
        parts.append(f' "{kind}": {{\n' + ",\n".join(lines) + "\n }")
    FILE.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
