"""MLC's conversation templates in Jinja: the prompts are those of MLC's own rule, message for message."""

from typing import Any

import jinja2
import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from compiler.errors import WispError
from compiler.sources.mlc.conversation import chat_template
from tests.mlc_pack import PHI3_CONVERSATION

Message = dict[str, str]
TOKENS = {1: "<s>", 128000: "<|begin_of_text|>"}

# As MLC registers them (`mlc_llm/conversation_template/`).
CONVERSATIONS: dict[str, dict[str, Any]] = {
    "llama-3": {
        "system_template": "<|start_header_id|>system<|end_header_id|>\n\n{system_message}<|eot_id|>",
        "system_message": "You are a helpful, respectful and honest assistant.",
        "roles": {"user": "<|start_header_id|>user", "assistant": "<|start_header_id|>assistant"},
        "seps": ["<|eot_id|>"],
        "role_content_sep": "<|end_header_id|>\n\n",
        "role_empty_sep": "<|end_header_id|>\n\n",
        "system_prefix_token_ids": [128000],
        "add_role_after_system_message": True,
    },
    "llama-2": {
        "system_template": "[INST] <<SYS>>\n{system_message}\n<</SYS>>\n\n",
        "system_message": "You are a helpful, respectful and honest assistant.",
        "roles": {"user": "<s>[INST]", "assistant": "[/INST]", "tool": "[INST]"},
        "seps": [" ", " </s>"],
        "role_content_sep": " ",
        "role_empty_sep": " ",
        "system_prefix_token_ids": [1],
        "add_role_after_system_message": False,
    },
    "phi-2": {
        "system_template": "{system_message}",
        "system_message": "",
        "roles": {"user": "Instruct", "assistant": "Output"},
        "seps": ["\n"],
        "role_content_sep": ": ",
        "role_empty_sep": ":",
    },
    "phi-3": PHI3_CONVERSATION,
    "no default, no role": {
        "system_template": "{system_message}",
        "system_message": "",
        "roles": {"user": "<u>", "assistant": "<a>"},
        "seps": ["|"],
        "add_role_after_system_message": False,
    },
    "hard to quote": {
        "system_template": "{{ it's \\n }} {system_message} {% raw %}\t\r\n{#",
        "system_message": "'\"\\ 光",
        "roles": {"user": "\n  {{", "assistant": "%}\n"},
        "role_templates": {"user": "<{user_message}|{user_message}>{function_string}", "assistant": "'"},
        "seps": ["  \n", "\\"],
        "role_content_sep": "\n",
        "role_empty_sep": " ",
    },
}

USER = {"role": "user", "content": "Why is the sky blue?\n  {{ really }}"}
ANSWER = {"role": "assistant", "content": "Because 'it' is.\n"}
SYSTEM = {"role": "system", "content": "Be brief."}
DIALOGUES: list[list[Message]] = [[USER], [SYSTEM, USER], [USER, ANSWER, USER], [SYSTEM, USER, ANSWER, USER], [SYSTEM]]


def mlc_prompt(conversation: dict[str, Any], messages: list[Message]) -> str:
    """`Conversation.as_prompt` after the server has put messages of the system into `system_message`."""
    system = conversation["system_message"]
    turns = []
    for message in messages:
        if message["role"] == "system":
            system = message["content"]
        else:
            turns.append((message["role"], message["content"]))
    text = conversation["system_template"].replace("{system_message}", system)
    separators = conversation["seps"] * 2 if len(conversation["seps"]) == 1 else conversation["seps"]
    templates = {"user": "{user_message}", "assistant": "{assistant_message}", "tool": "{tool_message}"}
    templates |= conversation.get("role_templates", {})
    prompt = text
    for i, (role, content) in enumerate(turns):
        opening = conversation["roles"][role] + conversation.get("role_content_sep", "")
        if not conversation.get("add_role_after_system_message", True) and text != "" and i == 0:
            opening = ""
        body = templates[role].replace(f"{{{role}_message}}", content)
        prompt += opening + body + separators[role == "assistant"]
    prompt += conversation["roles"]["assistant"] + conversation.get("role_empty_sep", "")
    prefix = "".join(TOKENS[token] for token in conversation.get("system_prefix_token_ids", []))
    return prefix + prompt.replace("{function_string}", "")


def render(template: str | None, messages: list[Message], add_generation_prompt: bool = True) -> str:
    """As transformers renders a chat template."""
    assert template is not None

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = raise_exception
    return environment.from_string(template).render(messages=messages, add_generation_prompt=add_generation_prompt)


@pytest.mark.parametrize("messages", DIALOGUES, ids=lambda messages: "-".join(m["role"] for m in messages))
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_prompts_are_mlcs(name: str, messages: list[Message]) -> None:
    conversation = CONVERSATIONS[name]
    assert render(chat_template(conversation, TOKENS.get), messages) == mlc_prompt(conversation, messages)


def test_without_a_prompt_for_the_answer() -> None:
    template = chat_template(PHI3_CONVERSATION, TOKENS.get)
    with_answer = render(template, [USER])
    assert with_answer == render(template, [USER], add_generation_prompt=False) + "<|assistant|>\n"


def test_a_role_that_the_template_does_not_have() -> None:
    with pytest.raises(jinja2.TemplateError, match="unknown role: tool"):
        render(chat_template(PHI3_CONVERSATION, TOKENS.get), [USER, {"role": "tool", "content": "42"}])


@pytest.mark.parametrize(
    "conversation", [None, "LM", "llama-3", {"name": "LM", "roles": {"user": "", "assistant": ""}, "seps": [""]}]
)
def test_no_conversation_no_template(conversation: Any) -> None:
    assert chat_template(conversation, TOKENS.get) is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"roles": None}, "conv_template.roles cannot become a chat template"),
        ({"roles": {"user": "U"}}, "a user and an assistant"),
        ({"roles": {"user": 3, "assistant": "A"}}, "roles.user.*got 3"),
        ({"seps": []}, "seps.*one or two strings"),
        ({"seps": ["a", "b", "c"]}, "seps"),
        ({"role_templates": {"user": None}}, "role_templates.user"),
        ({"role_templates": "user"}, "role_templates.*an object"),
        ({"system_template": 1}, "system_template"),
        ({"system_message": None}, "system_message"),
        ({"system_prefix_token_ids": [7]}, "system_prefix_token_ids.*ids of the tokenizer"),
        ({"system_prefix_token_ids": "1"}, "a list of ids"),
        ({"strip_reasoning_in_history": True}, "strip_reasoning_in_history"),
    ],
)
def test_what_cannot_become_one_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(WispError, match=message):
        chat_template({**PHI3_CONVERSATION, **fields}, TOKENS.get)


def test_a_list_is_no_conversation() -> None:
    with pytest.raises(WispError, match="conv_template cannot become a chat template: got"):
        chat_template([PHI3_CONVERSATION], TOKENS.get)
