"""The compile-time check of tokenizers and chat templates: through Node, with the code that pages run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from compiler.build import build
from compiler.check import tokenizer as tokenizer_check
from compiler.check.tokenizer import UNCHECKED, check_tokenizer
from compiler.config import resolve_config
from compiler.errors import WispError
from compiler.progress import Silent
from compiler.sources.open import open_checkpoint
from compiler.sources.sandbox import parse_template
from tests.checkpoints import CHAT_TEMPLATE, make_llama, write_tokenizer
from tests.conftest import ROOT, unavailable

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def checker() -> None:
    """Fails or skips where nothing could be checked."""
    if reason := check(ROOT / "configs" / "demo"):
        unavailable(f"{reason}; run make setup")


def check(directory: Path) -> str | None:
    checkpoint = open_checkpoint(directory)
    template = checkpoint.chat_template
    tree = None if template is None else parse_template(template)
    return check_tokenizer(
        checkpoint.tokenizer_files, template, tree, checkpoint.bos_token_id, checkpoint.stop_token_ids
    )


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with a good tokenizer and as little else as a checkpoint may have."""
    (tmp_path / "config.json").write_text('{"bos_token_id": 1, "eos_token_id": 2}')
    return write_tokenizer(tmp_path)


def change(directory: Path, edit: Change) -> None:
    path = directory / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    edit(tokenizer)
    path.write_text(json.dumps(tokenizer))


def in_sequence(tokenizer: dict[str, Any], first: dict[str, Any]) -> None:
    """Puts a pre-tokenizer before the one there is."""
    tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [first, tokenizer["pre_tokenizer"]]}


# Each is read alike by both sides: the families of Llama, Phi and Qwen, and what the page mends in its library.
GOOD: dict[str, Change] = {
    "as it is": lambda t: None,
    "truncation and padding that was left behind": lambda t: t.update(
        truncation={"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
        padding={
            "strategy": {"Fixed": 64},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 2,
            "pad_type_id": 0,
            "pad_token": "</s>",
        },
    ),
    "digits one by one": lambda t: in_sequence(t, {"type": "Digits", "individual_digits": True}),
    "digits together": lambda t: in_sequence(t, {"type": "Digits", "individual_digits": False}),
    "special tokens that take spaces": lambda t: [token.update(rstrip=True) for token in t["added_tokens"]],
    "a normalizer": lambda t: t.update(normalizer={"type": "NFC"}),
    "BOS": lambda t: t.update(
        post_processor={
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        }
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_tokenizer(name: str, directory: Path, checker: None) -> None:
    change(directory, GOOD[name])
    assert check(directory) is None


def test_the_embedded_model(checker: None) -> None:
    assert check(ROOT / "configs" / "demo") is None


GOOD_TEMPLATES = [
    "{% for m in messages %}\n  {% generation %}{{ m.content | trim }}{% endgeneration %}\n{% endfor %}",
    "{{ messages | tojson }}{{ messages[-1] | tojson(indent=2) }}{% if tools is not none %}tools{% endif %}",
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% if loop.last %}{% break %}{% endif %}{{ bos_token + m['content'] + eos_token }}{% endfor %}",
    "{%- set ns = namespace(n=0) -%}\n{% for m in messages[::-1] %}{% set ns.n = ns.n + 1 %}\n"
    "    {{- '<|%s|>' % m.role if false else m.role }} {{ ns.n }}\n{% endfor %}{{ strftime_now('%Y') }}",
    "{{ pad_token }}" + CHAT_TEMPLATE,
    "{% for group in messages | groupby('role') %}{{ group.grouper }}{{ group.list | length }}{% endfor %}",
    CHAT_TEMPLATE.replace("\n", "\r\n") + "\r\n{% if add_generation_prompt %}\r\n<|assistant|>\r\n{% endif %}\r\n",
    # One that demands a system message, and one that refuses it.
    "{% if messages[0].role != 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHAT_TEMPLATE,
    "{% if messages[0].role == 'system' %}{{ raise_exception('a system') }}{% endif %}" + CHAT_TEMPLATE,
]


@pytest.mark.parametrize("template", GOOD_TEMPLATES)
def test_a_good_template(template: str, directory: Path, checker: None) -> None:
    (directory / "chat_template.jinja").write_text(template)
    assert check(directory) is None


# Readable in Python, and not by the page's library, or not alike.
UNREADABLE: dict[str, tuple[Change, str]] = {
    "an unknown pre-tokenizer": (
        lambda t: in_sequence(t, {"type": "UnicodeScripts"}),
        "Unknown PreTokenizer type: UnicodeScripts",
    ),
    "an unknown normalizer": (lambda t: t.update(normalizer={"type": "Nmt"}), "Unknown Normalizer type: Nmt"),
    "other ids": (
        lambda t: in_sequence(t, {"type": "CharDelimiterSplit", "delimiter": "o"}),
        "Unknown PreTokenizer type: CharDelimiterSplit",
    ),
    "words that are taken for added ones": (
        lambda t: t["added_tokens"].append({**t["added_tokens"][0], "id": 319, "content": "ox", "single_word": True}),
        "differently: got [",
    ),
    "the last of many added ones": (
        lambda t: t["added_tokens"].extend(
            {**t["added_tokens"][0], "id": 320 + i, "content": f"<extra_{i}>", "single_word": i == 59}
            for i in range(60)
        ),
        "<extra_59>",
    ),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_tokenizer_that_the_page_cannot_read(name: str, directory: Path, checker: None) -> None:
    edit, complaint = UNREADABLE[name]
    change(directory, edit)
    Tokenizer.from_file(str(directory / "tokenizer.json"))
    with pytest.raises(WispError) as raised:
        check(directory)
    assert complaint in str(raised.value)
    assert raised.value.remedy


@pytest.mark.parametrize(
    "edit", [lambda t: t["model"].update(type="Bigram"), lambda t: t.update(pre_tokenizer={"type": "Psychic"})]
)
def test_a_tokenizer_that_nobody_can_read(edit: Change, directory: Path, checker: None) -> None:
    change(directory, edit)
    with pytest.raises(WispError, match=r"tokenizer\.json cannot be read: got .+ expected .+"):
        check(directory)


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("{% for m in messages %}{{ m.content }}", "the chat template cannot be read: got Unexpected end of template"),
        ("{{ messages[0].content | no_such_filter }}", "the chat template cannot be read: got No filter named"),
        ("{{ raise_exception('never') }}", "cannot use the chat template: got never"),
        (
            "{{ 'a b' | wordwrap(1) }}" + CHAT_TEMPLATE,
            "renders the chat template differently for user (with add_generation_prompt): got",
        ),
    ],
)
def test_a_broken_template(template: str, complaint: str, directory: Path, checker: None) -> None:
    (directory / "chat_template.jinja").write_text(template)
    with pytest.raises(WispError) as raised:
        check(directory)
    assert complaint in str(raised.value)


# ----------------------------------------------------------------------------------------------------------- the build


class Notes(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama(tmp_path_factory.mktemp("checkpoint") / "tiny-llama")


def test_a_refusal_leaves_nothing(llama: Path, tmp_path: Path, checker: None) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for file in llama.iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    change(source, lambda t: t.update(normalizer={"type": "Nmt"}))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(WispError, match="Nmt"):
        build(resolve_config(str(source), output=tmp_path / "out", context=64, variants=["webgpu-f32"]))
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("missing", ["node", "checker"])
def test_without_node_the_summary_says_so(
    missing: str, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if missing == "node":
        monkeypatch.setenv("PATH", str(tmp_path))
    else:
        monkeypatch.setattr(tokenizer_check, "CHECKER", tmp_path / "check-tokenizer.mjs")
        monkeypatch.setattr("shutil.which", lambda command: "/bin/sh")
    notes = Notes()
    build(resolve_config(str(llama), output=tmp_path / "out", context=64, variants=["webgpu-f32"]), notes)
    said = [line for line in notes.lines if line.startswith(UNCHECKED)]
    assert len(said) == 1
    assert ("no node" if missing == "node" else "not built") in said[0]


def test_a_node_that_fails_is_said_and_not_fatal(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one of years ago, which does not know the syntax."""
    old = tmp_path / "node"
    old.write_text("#!/bin/sh\necho 'SyntaxError: Unexpected token' >&2\nexit 1\n")
    old.chmod(0o755)
    monkeypatch.setattr("shutil.which", lambda command: str(old))
    monkeypatch.setattr(tokenizer_check, "CHECKER", old)
    assert check(llama) == f"{UNCHECKED}: {old} failed: SyntaxError: Unexpected token"


def test_without_weights_there_is_nothing_to_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert check_tokenizer((), None, None, 1, (2,)) is None
