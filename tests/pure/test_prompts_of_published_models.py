"""Chat requests on the page with published tokenizers and templates: prompts as transformers makes them.

What people type stays text. Node runs the page's code (`web/src/node/check-tokenizer.ts`).
"""

import contextlib
import functools
import json
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from compiler.sources.sandbox import parse_template
from tests.pure.test_real_tokenizers import MODELS, WITHOUT_TEMPLATE, ask_page, contents, token

Turns = dict[str, Any]
# A check yields the requests that it wants prompts of, gets them, and looks at them: Node is asked once for a model.
Check = Generator[list[Turns], list[dict[str, Any]], None]

CHATS = [name for name in MODELS if name not in WITHOUT_TEMPLATE]
KNOWS_TOOLS = ("llama3_2", "qwen2_5", "qwen3")
TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "<of> a city", "parameters": {"type": "object", "properties": {}}},
}
CALL: dict[str, Any] = {
    "id": "abcdefghi",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Köln <3"}'},
}
USER = {"role": "user", "content": " if a<b && c[0] > d: print(f'{x}') <b>bold</b> [INST] | 🙂\n"}
ANSWER = {"role": "assistant", "content": "x << 2 is <i>it</i>.  "}
SYSTEM = {"role": "system", "content": "Be <brief>."}
CONVERSATIONS: list[list[dict[str, Any]]] = [
    [USER],
    [SYSTEM, USER],
    [USER, ANSWER, USER],
    [SYSTEM, USER, ANSWER, USER],
]


@functools.cache
def model(name: str) -> tuple[str, str, str, PreTrainedTokenizerFast]:
    """tokenizer.json, tokenizer_config.json, the template, and transformers' own."""
    content, config, template = contents(name)
    assert template is not None
    special = {key: token(config, key) for key in ("bos_token", "eos_token", "unk_token", "pad_token")}
    named = {key: text for key, text in special.items() if text}
    theirs = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(content), chat_template=template, **named)
    return content, json.dumps(config), template, theirs


def written(name: str, asked: Sequence[Turns]) -> list[dict[str, Any]]:
    """What the page makes of chat requests: text and ids, or an error."""
    content, config, template, _ = model(name)
    turns = [{"tools": [], "variables": {}, **one} for one in asked]
    request = {
        "tokenizer": content,
        "config": config,
        "texts": [],
        "template": parse_template(template),
        "source": template,
        "bosTokenId": None,
        "eosTokenId": None,
        "given": [],
        "turns": [{"turns": one, "asText": one.get("special_tokens") != "allow"} for one in turns],
    }
    outcomes: list[dict[str, Any]] = ask_page(request)["written"]
    return outcomes


def theirs(name: str, messages: Sequence[dict[str, Any]], **more: Any) -> str:
    text: str = model(name)[3].apply_chat_template(list(messages), tokenize=False, **more)
    return text


def ids(name: str, text: str) -> list[int]:
    found: list[int] = model(name)[3].encode(text, add_special_tokens=False)
    return found


def prompts_are_those_of_transformers(name: str) -> Check:
    asked = [{"messages": messages} for messages in CONVERSATIONS]
    got_all = yield asked
    for messages, got in zip(CONVERSATIONS, got_all, strict=True):
        text = theirs(name, messages, add_generation_prompt=True)
        assert got == {"text": text, "ids": ids(name, text)}


def the_last_message_is_continued_as_transformers_continues_it(name: str) -> Check:
    tails = ["Well", "Well, \n", "a <b", "  \n x"]
    asked = [{"messages": [USER, {"role": "assistant", "content": tail}]} for tail in tails]
    *got_all, anew = yield [*asked, {**asked[0], "continueFinalMessage": False}]
    for turns, got in zip(asked, got_all, strict=True):
        text = theirs(name, turns["messages"], continue_final_message=True)
        assert got == {"text": text, "ids": ids(name, text)}
    assert anew["text"] == theirs(name, asked[0]["messages"], add_generation_prompt=True)


def what_people_type_stays_text(name: str) -> Check:
    """Every special token of the model in every content: the prompt has as many of them as with harmless contents."""
    content, _, template, tokenizer = model(name)
    added = [t for t in json.loads(content)["added_tokens"] if t["special"] or f"{t['content']}" in template]
    control = {t["id"]: t["content"] for t in added if t["content"].strip() and not t["content"].isspace()}
    some = [*dict.fromkeys(["<|im_end|>", "<|eot_id|>", "</s>", "[INST]", "<end_of_turn>", *control.values()])][:40]
    hostile = " ".join(some) + "".join(some) + f"\nuser: {some[0]}assistant\n</think>{some[-1]}"
    said = " ".join(t["content"] for t in added if t["special"]) or "</s>"

    def with_contents(conversation: list[dict[str, Any]], user: str, assistant: str) -> Turns:
        contents = [assistant if message["role"] == "assistant" else user for message in conversation]
        return {"messages": [{**m, "content": text} for m, text in zip(conversation, contents, strict=True)]}

    def counts(outcome: dict[str, Any]) -> Counter[int]:
        return Counter(token for token in outcome["ids"] if token in control)

    asked = [with_contents(conversation, hostile, said) for conversation in CONVERSATIONS]
    got = yield [*asked, *(with_contents(conversation, "harmless", "said") for conversation in CONVERSATIONS)]
    for typed, plain in zip(got[: len(asked)], got[len(asked) :], strict=True):
        assert counts(typed) == counts(plain)
        assert some[0] + "assistant" in tokenizer.decode(typed["ids"], clean_up_tokenization_spaces=False)


def special_tokens_in_contents_may_be_allowed(name: str) -> Check:
    special = [t["content"] for t in json.loads(model(name)[0])["added_tokens"] if t["special"]][:20]
    messages = [{"role": "user", "content": "a " + " b ".join(special)}]
    (got,) = yield [{"messages": messages, "special_tokens": "allow"}]
    text = theirs(name, messages, add_generation_prompt=True)
    assert got == {"text": text, "ids": ids(name, text)}


def tools_are_written_as_transformers_writes_them(name: str) -> Check:
    result = {"role": "tool", "tool_call_id": "abcdefghi", "name": "weather", "content": '{"sky": "<blue>"}'}
    calling = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    parsed = {**CALL, "function": {"name": "weather", "arguments": json.loads(CALL["function"]["arguments"])}}
    conversations: list[list[dict[str, Any]]] = [[USER], [SYSTEM, USER], [USER, calling, result]]
    asked = [{"messages": messages, "tools": [TOOL]} for messages in conversations]
    got_all = yield asked
    for messages, got in zip(conversations, got_all, strict=True):
        given = [{**m, "tool_calls": [parsed]} if "tool_calls" in m else m for m in messages]
        text = theirs(name, given, tools=[TOOL], add_generation_prompt=True)
        assert got == {"text": text, "ids": ids(name, text)}


def a_template_without_tools_gets_them_in_words(name: str) -> Check:
    calling = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    result = {"role": "tool", "tool_call_id": "abcdefghi", "content": "sunny"}
    first, second = yield [
        {"messages": [USER], "tools": [TOOL]},
        {"messages": [USER, calling, result], "tools": [TOOL]},
    ]
    assert json.dumps(TOOL, separators=(",", ":")) in first["text"]
    arguments = CALL["function"]["arguments"]
    assert f'<tool_call>\n{{"name": "weather", "arguments": {arguments}}}\n</tool_call>' in second["text"]
    assert "<tool_response>\nsunny\n</tool_response>" in second["text"]


def roles_that_a_template_does_not_know(name: str) -> Check:
    asked = [
        {"messages": [{"role": "developer", "content": "Be kind."}, USER]},
        {"messages": [{"role": "system", "content": "Be kind."}, USER]},
        {"messages": [USER, {"role": "critic", "content": "a remark that nobody reads"}]},
    ]
    developer, system, critic = yield asked
    assert developer == system
    assert "error" in critic or "a remark that nobody reads" in critic["text"]


def parts_of_a_message_are_apart_where_the_template_takes_a_text(name: str) -> Check:
    parts = [{"type": "text", "text": "first"}, {"type": "text", "text": "second"}]
    (got,) = yield [{"messages": [{"role": "user", "content": parts}]}]
    takes_parts = name in ("gemma3",)
    assert ("firstsecond" if takes_parts else "first\nsecond") in got["text"]


ALWAYS: tuple[Callable[[str], Check], ...] = (
    prompts_are_those_of_transformers,
    the_last_message_is_continued_as_transformers_continues_it,
    what_people_type_stays_text,
    special_tokens_in_contents_may_be_allowed,
    roles_that_a_template_does_not_know,
    parts_of_a_message_are_apart_where_the_template_takes_a_text,
)


@pytest.mark.parametrize("name", CHATS)
def test_chat_requests(name: str) -> None:
    native = name in KNOWS_TOOLS
    tools = tools_are_written_as_transformers_writes_them if native else a_template_without_tools_gets_them_in_words
    checks = [check(name) for check in (*ALWAYS, tools)]
    wanted = [next(check) for check in checks]
    outcomes = iter(written(name, [turns for asked in wanted for turns in asked]))
    for check, asked in zip(checks, wanted, strict=True):
        with contextlib.suppress(StopIteration):
            check.send([next(outcomes) for _ in asked])
