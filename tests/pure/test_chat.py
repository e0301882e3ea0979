"""A chat without a terminal: what is kept between prompts, penalties over the latest tokens, what ends an answer."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from compiler.artifact.state import SamplingParameters
from compiler.artifact.writer import load_artifact
from compiler.chat import tokenizer as chat_tokenizer
from compiler.chat.model import ChatModel, Rates, Request, load_model
from compiler.chat.tokenizer import ChatTokenizer, Pieces
from compiler.cli import main
from compiler.errors import WispError
from compiler.runtime.choose import difference, open_best
from compiler.runtime.session import Session
from compiler.sources.sandbox import Limits
from tests.checkpoints import make_llama, write_tokenizer
from tests.conftest import ROOT

BACKTRACKING = r"(([aA-z]+)+)+[!?]{9}"
PROMPT = [5, 9, 200, 31, 5, 77, 12, 300, 4, 5, 18, 90, 11, 12, 13, 14, 15, 16, 17]
GREEDY = SamplingParameters()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with a tokenizer and a chat template, for the CPU."""
    directory = tmp_path_factory.mktemp("chat")
    source = make_llama(directory / "tiny")
    write_tokenizer(source)
    options = "--variants wasm-simd --context 128 --quant q0f32"
    assert main(["compile", str(source), "-o", str(directory / "out"), *options.split()]) == 0
    return directory / "out"


@pytest.fixture(scope="module")
def session(built: Path) -> Session:
    return open_best(load_artifact(built)).session


@pytest.fixture(scope="module")
def model(built: Path) -> Iterator[ChatModel]:
    with contextlib.closing(load_model(built)) as loaded:
        yield loaded


def counted(session: Session, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The programs that it runs from now on."""
    programs: list[str] = []
    run = session.run

    def noted(name: str) -> None:
        programs.append(name)
        run(name)

    monkeypatch.setattr(session, "run", noted)
    return programs


def test_a_prompt_that_goes_on_keeps_what_is_there(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    first = session.generate(PROMPT, 12, GREEDY)
    longer = [*PROMPT, *first, 8, 8, 60]
    branch = [*PROMPT[:10], 70, 71, 72]
    expected = [session.generate(ids, 12, GREEDY) for ids in (longer, branch)]
    session.generate(PROMPT, 12, GREEDY)
    programs = counted(session, monkeypatch)
    assert list(session.stream(longer, 12, GREEDY)) == expected[0]
    assert sum(name.startswith("prefill") for name in programs) == 1, "of three new tokens and the last one"
    assert list(session.stream(branch, 12, GREEDY)) == expected[1]
    assert list(session.stream(branch, 12, GREEDY)) == expected[1], "nothing new at all"


def test_a_reader_that_leaves_early_loses_nothing(session: Session) -> None:
    whole = session.generate(PROMPT, 20, GREEDY)
    stream = session.stream(PROMPT, 20, GREEDY)
    assert [next(stream) for _ in range(3)] == whole[:3]
    stream.close()
    assert session.history == [*PROMPT, *whole[:2]]
    assert list(session.stream([*PROMPT, *whole[:3]], 5, GREEDY)) == whole[3:8]


@pytest.mark.parametrize("last", [None, 0, 1, 6, 25, 1000])
def test_the_penalty_looks_at_the_latest_tokens(session: Session, last: int | None) -> None:
    """Greedy, with the penalty taken off the logits in numpy."""
    penalty, ids = 1.9, list(PROMPT)
    for _ in range(14):
        logits = session.logits(ids).astype(np.float64)
        seen = np.unique(ids if last is None else ids[len(ids) - min(last, len(ids)) :]).astype(int)
        logits[seen] = np.where(logits[seen] > 0, logits[seen] / penalty, logits[seen] * penalty)
        ids.append(int(np.argmax(logits)))
    session.reset()
    parameters = SamplingParameters(repetition_penalty=penalty)
    assert list(session.stream(PROMPT, 14, parameters, repeat_last_n=last)) == ids[len(PROMPT) :]


def test_a_stop_is_heard_between_chunks_and_steps(session: Session) -> None:
    session.reset()
    calls = iter([False, True])
    assert list(session.stream(PROMPT * 5, 5, GREEDY, stopped=lambda: next(calls))) == []
    assert 0 < len(session.history) < len(PROMPT * 5) - 1
    heard = [False]
    tokens = []
    for token in session.stream(PROMPT, 50, GREEDY, stopped=lambda: heard[0]):
        tokens.append(token)
        heard[0] = len(tokens) >= 4
    assert 4 <= len(tokens) < 50


def test_an_answer_ends_with_the_context(session: Session) -> None:
    session.reset()
    assert len(list(session.stream(PROMPT, 1000, GREEDY))) == session.capacity - len(PROMPT) + 1
    with pytest.raises(WispError, match=r"does not fit the context: got 129 tokens, expected at most 128"):
        list(session.stream([1] * 129, 1, GREEDY))


def answer(model: ChatModel, messages: Sequence[dict[str, str]], **options: Any) -> tuple[str, Rates]:
    rates = Rates()
    return "".join(model.answer(messages, Request(**{"sample_len": 12, **options}), rates)), rates


def test_options_take_the_place_of_the_models_own(model: ChatModel) -> None:
    asked = [{"role": "user", "content": "Hello there"}]
    greedy, rates = answer(model, asked, temperature=0)
    assert (rates.tokens, rates.finish) == (12, "length")
    assert answer(model, asked, temperature=5.0, top_k=1, seed=3)[0] == greedy
    assert answer(model, asked, temperature=5.0, top_p=0.0, seed=3)[0] == greedy
    drawn = {answer(model, asked, temperature=5.0, seed=seed)[0] for seed in (1, 1, 2)}
    assert len(drawn) == 2
    assert answer(model, asked, temperature=0, repeat_penalty=5.0)[0] != greedy
    for none in ({}, {"seed": -1}):
        assert len({answer(model, asked, temperature=5.0, **none)[0] for _ in range(4)}) > 1, "a seed is drawn for each"


def test_what_was_reused_is_counted(model: ChatModel) -> None:
    asked = [{"role": "user", "content": "Hello there"}]
    said, first = answer(model, asked, temperature=0)
    more = [*asked, {"role": "assistant", "content": said}, {"role": "user", "content": "And now?"}]
    _, second = answer(model, more, temperature=0)
    assert second.prompt_tokens > second.reused_tokens >= first.prompt_tokens - 1
    assert f"{second.reused_tokens} of them kept" in second.line()


def test_a_template_that_refuses_says_why(model: ChatModel) -> None:
    with pytest.raises(WispError, match=r"longer than the context: got \d+ tokens, expected at most 128"):
        answer(model, [{"role": "user", "content": "many words " * 80}])


def test_logits_that_are_not_the_artifacts_are_told(built: Path, session: Session) -> None:
    smoke = load_artifact(built).model["smoke"]
    session.reset()
    logits = session.logits(smoke["ids"])
    assert difference(logits, smoke) is None
    token = smoke["top"][0][0]
    for wrong, complaint in ((np.nan, "nan"), (np.inf, "inf"), (logits[token] - smoke["scale"], "is right")):
        changed = logits.copy()
        changed[token] = wrong
        assert complaint in str(difference(changed, smoke))
    changed = logits.copy()
    changed[next(i for i in range(331) if i not in {t for t, _ in (*smoke["top"], *smoke["others"])})] = 1e6
    assert "at most" in str(difference(changed, smoke))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--prompt", " "], "the prompt is empty"),
        (["--prompt", "a", "--variant", "webgpu"], "no such variant: got webgpu, expected wasm-simd"),
        (["--temperature", "-1"], "got -1, expected 0 to 100"),
        (["--top-p", "1.5"], "got 1.5, expected 0 to 1"),
        (["--repeat-last-n", "-1"], "got -1, expected 0 or more"),
        (["--sample-len", "0"], "invalid positive number value"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_bad_options(built: Path, options: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = main(["chat", str(built), *options])
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    captured = capsys.readouterr()
    assert (status, captured.out) == (2, "")
    assert captured.err.count("\n") == 1
    assert complaint in captured.err


def test_a_prompt_is_answered_on_stdout_and_a_pipe_is_talked_to(built: Path) -> None:
    command = [sys.executable, "-m", "compiler.cli", "chat", str(built), "--temperature", "0", "--sample-len", "6"]

    def run(*options: str, text: str = "") -> tuple[str, str]:
        done = subprocess.run([*command, *options], input=text, capture_output=True, text=True, check=True)
        return done.stdout, done.stderr

    out, said = run("--prompt", "Hello there")
    assert "tok/s" in said
    twice, said = run(text="Hello there\n\n/new\nHello there\n/what\n")
    assert twice == out + out
    assert said.count("tok/s]") + said.count("(length)]") >= 2
    assert "/what is no command" in said


def test_bytes_that_become_no_character_end_no_answer() -> None:
    """Half of an é between whole ones, as a model may write them: what can be read comes, and the answer goes on."""
    folder = ROOT / "tests" / "tokenizers" / "node_modules" / "@lenml" / "tokenizer-llama2" / "models"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    pieces, text = Pieces(tokenizer), ""
    for name in ("<0xC3>", "<0xA9>", "<0xC3>", "\u2581a", "\u2581b"):
        token = tokenizer.token_to_id(name)
        assert token is not None
        text += pieces.push(token)
    text += pieces.rest()
    assert text.startswith("\u00e9")
    assert text.endswith("a b")


def test_a_text_that_the_tokenizer_reads_for_hours_is_refused_and_the_chat_goes_on(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_tokenizer, "TEXT_SECONDS", 1)
    path = Path(shutil.copytree(built, tmp_path / "hostile"))
    file = path / "tokenizer.json"
    hostile = json.loads(file.read_text())
    split = {"type": "Split", "pattern": {"Regex": BACKTRACKING}, "behavior": "Isolated", "invert": False}
    hostile["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, hostile["pre_tokenizer"]]}
    file.write_text(json.dumps(hostile).ljust(file.stat().st_size))  # its size stands in model.json
    with contextlib.closing(load_model(path)) as model:
        said, _ = answer(model, [{"role": "user", "content": "Hello"}], temperature=0)
        with pytest.raises(WispError, match=r"tokenizer\.json cannot be used.*(processor time|retry-limit)"):
            answer(model, [{"role": "user", "content": "a" * 60 + "1"}])
        assert answer(model, [{"role": "user", "content": "Hello"}], temperature=0)[0] == said


@pytest.mark.parametrize(("kind", "steps"), [("normalizer", "normalizers"), ("decoder", "decoders")])
def test_a_text_that_fills_the_memory_is_refused(
    built: Path, kind: str, steps: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is read, and one that is written."""
    monkeypatch.setattr(chat_tokenizer, "TOKENIZER_LIMITS", Limits(5, 768 << 20))
    monkeypatch.setattr(chat_tokenizer, "TEXT_SECONDS", 2)
    many = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}
    changed = json.loads((built / "tokenizer.json").read_text()) | {kind: {"type": "Sequence", steps: [many] * 4}}

    def copied(tokenizer: ChatTokenizer) -> None:
        ids = tokenizer.encode("banana", add_special_tokens=False)
        tokenizer.begin()
        for token in ids:
            tokenizer.push(token)

    tokenizer = ChatTokenizer(json.dumps(changed))
    with contextlib.closing(tokenizer), pytest.raises(WispError, match=r"more than .*(memory|time)"):
        copied(tokenizer)


def test_ctrl_c_ends_a_text_that_is_read_and_none_that_is_written(built: Path) -> None:
    def press(tokenizer: ChatTokenizer) -> None:
        assert tokenizer._process is not None
        tokenizer._process.send_signal(signal.SIGINT)

    with contextlib.closing(ChatTokenizer((built / "tokenizer.json").read_text())) as tokenizer:
        ids = tokenizer.encode("Hello there", add_special_tokens=False)
        tokenizer.begin()
        text = ""
        for token in ids:
            press(tokenizer)
            text += tokenizer.push(token)
        assert text + tokenizer.rest() == "Hello there"


def test_what_is_typed_need_not_be_text(built: Path) -> None:
    command = [sys.executable, "-m", "compiler.cli", "chat", str(built), "--temperature", "0", "--sample-len", "2"]
    for encoding in ("utf-8:strict", "utf-8:surrogateescape"):
        done = subprocess.run(
            command,
            input=b"caf\xe9\nHello\n",
            capture_output=True,
            check=True,
            env={**os.environ, "PYTHONIOENCODING": encoding},
        )
        assert b"Traceback" not in done.stderr
        assert done.stderr.count(b"tok/s") >= 1
