"""MLC's `conv_template` as a Jinja chat template, so that a page writes the prompts that MLC's engine would write.

The rule is `Conversation.as_prompt` of `mlc_llm/protocol/conversation_protocol.py`. Knows JSON values and Jinja;
opens no file.
"""

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from ...errors import WispError

WHERE = "mlc-chat-config.json conv_template"
PLACEHOLDERS = {"user": "{user_message}", "assistant": "{assistant_message}", "tool": "{tool_message}"}
# What MLC fills in where functions are described; nothing calls functions here, so it is empty, as MLC's default is.
FUNCTION_PLACEHOLDER = "{function_string}"


def chat_template(conversation: Any, token_text: Callable[[int], str | None]) -> str | None:
    """The Jinja template; None for a template that is only a name, and for one without roles (plain completion).

    `token_text` gives the text of a token id: MLC puts `system_prefix_token_ids` before the prompt as ids. Raises
    WispError for what cannot be said in Jinja.
    """
    if conversation is None or isinstance(conversation, str):
        return None
    if not isinstance(conversation, Mapping):
        _refuse("", conversation, "an object")
    roles = {role: _text(conversation, "roles", role) for role in _object(conversation, "roles")}
    if not any(roles.get(role) for role in ("user", "assistant")):
        return None
    for role in ("user", "assistant"):
        if role not in roles:
            _refuse("roles", roles, "a user and an assistant")
    if conversation.get("strip_reasoning_in_history"):
        _refuse("strip_reasoning_in_history", True, "false")
    separators = conversation.get("seps")
    if not isinstance(separators, list) or len(separators) not in (1, 2) or not all(map(_is_text, separators)):
        _refuse("seps", separators, "one or two strings")
    prefix = _prefix(conversation, token_text)
    skips = conversation.get("add_role_after_system_message") is False
    content_separator = _text(conversation, "role_content_sep")
    parts = [_output(_literal(prefix))] if prefix else []
    parts.append(_system(conversation))
    parts.append("{% for message in messages %}{% if message['role'] == 'system' %}")
    for role, name in roles.items():
        if role not in PLACEHOLDERS:
            continue
        parts.append(f"{{% elif message['role'] == {_literal(role)} %}}")
        opening = _output(_literal(name + content_separator))
        if skips:  # the first message continues the system message
            opening = f"{{% if turns.seen or not system %}}{opening}{{% endif %}}"
        body = _pieces(_template(conversation, role), PLACEHOLDERS[role], "message['content']")
        closing = _literal(separators[-1 if role == "assistant" else 0])
        parts.append(f"{opening}{_output(body)}{_output(closing)}{{% set turns.seen = true %}}")
    parts.append("{% else %}{{ raise_exception('unknown role: ' + message['role']) }}{% endif %}{% endfor %}")
    answer = roles["assistant"] + _text(conversation, "role_empty_sep")
    parts.append(f"{{% if add_generation_prompt %}}{_output(_literal(answer))}{{% endif %}}")
    return "".join(parts)


def _system(conversation: Mapping[str, Any]) -> str:
    """The system message in its frame: the conversation's own one, or MLC's default."""
    template = conversation.get("system_template", "{system_message}")
    if not _is_text(template):
        _refuse("system_template", template, "a string")
    frame = _pieces(template, "{system_message}", "turns.system")
    return (
        f"{{% set turns = namespace(seen=false, system={_literal(_text(conversation, 'system_message'))}) %}}"
        "{% for message in messages %}{% if message['role'] == 'system' %}"
        "{% set turns.system = message['content'] %}{% endif %}{% endfor %}"
        f"{{% set system = {frame} %}}{{{{ system }}}}"
    )


def _prefix(conversation: Mapping[str, Any], token_text: Callable[[int], str | None]) -> str:
    ids = conversation.get("system_prefix_token_ids") or []
    if not isinstance(ids, list) or not all(type(token) is int for token in ids):
        _refuse("system_prefix_token_ids", ids, "a list of ids")
    texts = [token_text(token) for token in ids]
    if None in texts:
        _refuse("system_prefix_token_ids", ids, "ids of the tokenizer")
    return "".join(text for text in texts if text is not None)


def _template(conversation: Mapping[str, Any], role: str) -> str:
    templates = conversation.get("role_templates") or {}
    if not isinstance(templates, Mapping):
        _refuse("role_templates", templates, "an object")
    value = templates.get(role, PLACEHOLDERS[role])
    if not _is_text(value):
        _refuse(f"role_templates.{role}", value, "a string")
    return str(value)


def _pieces(template: str, placeholder: str, value: str) -> str:
    """A Jinja expression: the template with `value` in place of each placeholder."""
    texts = [_literal(text) if text else None for text in template.split(placeholder)]
    between = [part for text in texts for part in (value, text)][1:]
    return " + ".join(part for part in between if part is not None) or "''"


def _output(expression: str) -> str:
    return "" if expression == "''" else f"{{{{ {expression} }}}}"


def _literal(text: str) -> str:
    """A Jinja string. In an expression no whitespace is trimmed and no brace starts a tag."""
    text = text.replace(FUNCTION_PLACEHOLDER, "").replace("\\", "\\\\").replace("'", "\\'")
    return "'" + text.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t") + "'"


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _object(conversation: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = conversation.get(name)
    if not isinstance(value, Mapping):
        _refuse(name, value, "an object")
    return value


def _text(conversation: Mapping[str, Any], name: str, key: str | None = None) -> str:
    value = conversation.get(name, "") if key is None else conversation[name][key]
    if not isinstance(value, str):
        _refuse(name if key is None else f"{name}.{key}", value, "a string")
    return value


def _refuse(field: str, got: object, expected: str) -> NoReturn:
    raise WispError(
        f"{WHERE}{'.' + field if field else ''} cannot become a chat template",
        got=repr(got),
        expected=expected,
        remedy="correct it, or set it to null and keep a chat_template in tokenizer_config.json",
    )
