"""Tokenizers and chat templates that never end or want everything: one refusal, soon, and nothing left running."""

import json
from pathlib import Path
from typing import Any

import pytest

from compiler.check import tokenizer as tokenizer_check
from compiler.check.tokenizer import check_tokenizer
from compiler.errors import WispError
from compiler.sources import sandbox
from compiler.sources.sandbox import Limits, encode, encode_all, parse_template, render_all
from tests.checkpoints import CHAT_TEMPLATE, write_tokenizer

GIVEN = [{"messages": [{"role": "user", "content": "What is 2 + 2?"}]}]
ENDLESS = "{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3
BACKTRACKING = r"(([aA-z]+)+)+[!?]{9}"


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits of which less has to be used up."""
    monkeypatch.setattr(sandbox, "TEMPLATE_LIMITS", Limits(1, 512 << 20))
    monkeypatch.setattr(sandbox, "TOKENIZER_LIMITS", Limits(2, 1 << 30))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return write_tokenizer(tmp_path)


def tokenizer_with(directory: Path, **parts: Any) -> str:
    return json.dumps(json.loads((directory / "tokenizer.json").read_text()) | parts)


def test_a_template_within_the_limits(directory: Path) -> None:
    (outcome,) = render_all(CHAT_TEMPLATE, [{**GIVEN[0], "bos_token": "<s>", "eos_token": "</s>"}])
    assert "What is 2 + 2?" in outcome["text"]
    assert render_all("{{ raise_exception('no') }}", GIVEN) == [{"error": "no"}]


@pytest.mark.parametrize(
    ("template", "got"),
    [
        (ENDLESS, "processor time"),
        ("{{ 'a' * 10 ** 9 }}", "memory"),
        ("{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}", "memory"),
        ("{{ [0] * 10 ** 9 }}", "memory"),
    ],
    ids=["loops", "constant", "doubling", "list"],
)
def test_a_template_that_breaks_a_limit_is_refused(short: None, template: str, got: str) -> None:
    with pytest.raises(WispError, match=rf"the chat template cannot be used.*got more than \d+ .*{got}"):
        render_all(template, GIVEN)


def test_a_prompt_of_millions_of_characters_is_no_prompt() -> None:
    (outcome,) = render_all("{{ 'a' * 2000000 }}", GIVEN)
    assert outcome == {"error": "a prompt of 2000000 characters"}


def test_a_template_is_in_a_sandbox() -> None:
    for template in ("{{ ''.__class__.__mro__ }}", "{{ messages.__class__.__init__.__globals__ }}"):
        (outcome,) = render_all(template, GIVEN)
        assert "unsafe" in outcome["error"]


def test_an_expression_that_backtracks_is_refused(short: None, directory: Path) -> None:
    split = {"type": "Split", "pattern": {"Regex": BACKTRACKING}, "behavior": "Isolated", "invert": False}
    texts = ["a" * 60 + "1"]
    assert encode_all(tokenizer_with(directory), texts)[0]["ids"]
    with pytest.raises(WispError, match=r"tokenizer\.json cannot be used.*(processor time|retry-limit)"):
        encode_all(tokenizer_with(directory, pre_tokenizer=split), texts)


def test_a_normalizer_that_multiplies_is_refused(short: None, directory: Path) -> None:
    step = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}
    normalizer = {"type": "Sequence", "normalizers": [step] * 4}
    with pytest.raises(WispError, match=r"tokenizer\.json cannot be used.*(memory|time)"):
        encode_all(tokenizer_with(directory, normalizer=normalizer), ["a"])


def test_a_refusal_does_not_wait_for_the_page(
    short: None, directory: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The page's side of the check would run for hours: it is ended with the refusal."""
    node = tmp_path / "node"
    started = tmp_path / "started"
    node.write_text(f"#!/bin/sh\necho $$ > {started}\nexec sleep 100000\n")
    node.chmod(0o755)
    monkeypatch.setattr("shutil.which", lambda command: str(node))
    monkeypatch.setattr(tokenizer_check, "CHECKER", node)
    with pytest.raises(WispError, match="the chat template cannot be used"):
        check_tokenizer([directory / "tokenizer.json"], ENDLESS, parse_template(ENDLESS), 1, (2,))
    if started.is_file() and Path("/proc/self").is_dir():
        assert not Path("/proc", started.read_text().strip()).exists()


def test_a_text_is_read_under_the_same_limits(directory: Path) -> None:
    ids = encode(directory / "tokenizer.json", "The quick brown fox")
    assert len(ids) > 3
    (directory / "tokenizer.json").write_text("{}")
    with pytest.raises(WispError, match=r"tokenizer\.json cannot be read"):
        encode(directory / "tokenizer.json", "x")
