"""Holds tokenizer and chat template as a page reads them against Hugging Face's own, before anything is written.

Node runs the page's own code (`web/src/node/check-tokenizer.ts`) on a corpus and on conversations of every kind;
`tokenizers` and Jinja (`sandbox.py`) say what should come out. Knows files and texts; nothing of the model.
"""

import contextlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from ..errors import WispError
from ..places import WEB
from ..sources.sandbox import Outcome, Tree, encode_all, render_all
from .conversations import PLAIN, Variables, sample_variables

CHECKER = WEB / "dist" / "check-tokenizer.mjs"
TIMEOUT = 120.0  # seconds; a vocabulary of 128,000 takes about one
NODE_MEGABYTES = 4096
FILES = ("tokenizer.json", "tokenizer_config.json")
UNCHECKED = "tokenizer not checked in JavaScript"

# What people write and models answer, of every kind that a pre-tokenizer treats in its own way; U+0085 and U+FEFF among
# them, of which the two languages' regular expressions take the one and the other for white space.
CORPUS = (
    "The quick brown fox jumps over the lazy dog.",
    "It's what they'd said: we'll see, I'm sure you've NOTICED; don't!",
    " leading,  double   and trailing spaces  ",
    "tabs\tand\n\nnew\r\nlines \n \n\n\n",
    "numbers: 7, 42, 1999, 31415926535, 3.14e-10, 0xFF, ½ ² ٤٢",
    "def f(x: int) -> str:\n    return {'a': [x ** 2, not x]}[\"a\"]  # 100%\n\n\nf(1)",
    '<div class="a">&amp; https://example.org/?q=1&r=%20 user@example.org C:\\dir\\file</div>',
    "naïve café, Straße, ﬁn, Å Å, e\u0301 a\u0308\u0323 (combining)",
    "Там, за рекой, тихо. Ελληνικά. Tiếng Việt. İstanbul ıI",
    "مرحبا بالعالم، كيف حالك؟ שלום עולם",
    "你好，世界！光は石から石へ。カタカナ 한국어 안녕하세요 ไทย नमस्ते दुनिया",
    "🙂🙃 👩‍👩‍👧‍👦 👍🏽 🇫🇷 ❤️ ∑∞≠→ “quotes” — dash… №\u00a0§\u3000\u200b",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!!!!!!!!??????======------",
    "a\ufeffb \ufeff c\ufeff\n d\u0085e \u0085 f  \u0085",
    " ",
    "",
)
ADDED_TOKENS_ALONE = 24
ADDED_TOKENS_TOGETHER = 50


def check_tokenizer(
    files: Sequence[Path],
    chat_template: str | None,
    template_tree: Tree | None,
    bos_token_id: int | None,
    stop_token_ids: Sequence[int],
) -> str | None:
    """Returns why nothing could be checked, or None. Without files (no weights are compiled) there is nothing to check.

    Raises WispError when the page would read the tokenizer or the template differently, or not at all.
    """
    contents = {file.name: file.read_text(encoding="utf-8") for file in files if file.name in FILES}
    if "tokenizer.json" not in contents:
        return None
    node = shutil.which("node")
    if node is None:
        return f"{UNCHECKED}: there is no node on PATH"
    if not CHECKER.is_file():
        return f"{UNCHECKED}: {CHECKER.name} is not built; `make build` builds it"
    tokenizer = json.loads(contents["tokenizer.json"])
    texts = [*CORPUS, *_texts_of_added_tokens(tokenizer)]
    end_token_id = next(iter(stop_token_ids), None)
    config = json.loads(contents.get("tokenizer_config.json", "{}"))
    samples = sample_variables(template_tree) if template_tree is not None else []
    request = {
        "tokenizer": contents["tokenizer.json"],
        "config": contents.get("tokenizer_config.json"),
        "texts": texts,
        "template": template_tree,
        "bosTokenId": bos_token_id,
        "eosTokenId": end_token_id,
        "given": samples,
    }
    named_tokens = special_tokens(config, tokenizer, bos_token_id, end_token_id)
    given = [{**named_tokens, **variables} for variables in samples]
    page, encoded, rendered = _ask_both(node, json.dumps(request), chat_template, json.dumps(given))
    if isinstance(page, str):
        return f"{UNCHECKED}: {page}"
    if "error" in page:
        _refuse("cannot read tokenizer.json", page["error"], None)
    for text, got, expected in zip(texts, page["encoded"], encoded, strict=True):
        _compare_encoded(text, got, expected)
    for variables, got, expected in zip(samples, page["rendered"], rendered, strict=True):
        _compare_rendered(variables, got, expected)
    if rendered and all("error" in outcome for outcome in rendered[: len(PLAIN)]):
        _refuse("cannot use the chat template", rendered[0]["error"], "a template for users and assistants in turn")
    return None


@lru_cache(maxsize=4)  # a process that compiles the same tokenizer again need not wait again
def _ask_both(
    node: str, content: str, template: str | None, given: str
) -> tuple[Outcome | str, list[Outcome], list[Outcome]]:
    """What the page makes of a request (why it could not be asked, as a string), and what the reference does.

    Both at once. Raises WispError, and waits for the page no longer, when the reference cannot be had.
    """
    request = json.loads(content)
    with tempfile.TemporaryFile() as sent, _started(node, sent, content) as page, ThreadPoolExecutor(1) as pool:
        encoded = pool.submit(encode_all, request["tokenizer"], request["texts"])
        rendered = render_all(template, json.loads(given)) if template is not None else []
        return page(), encoded.result(), rendered


@contextlib.contextmanager
def _started(node: str, sent: BinaryIO, content: str) -> Iterator[Callable[[], Outcome | str]]:
    """Node at work on a request; the function waits for its answer. It ends when the block does."""
    sent.write(content.encode())
    sent.seek(0)
    command = [node, f"--max-old-space-size={NODE_MEGABYTES}", str(CHECKER)]
    try:
        process = subprocess.Popen(command, stdin=sent, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except OSError as error:
        reason = str(error)
        yield lambda: reason
        return
    with process, ThreadPoolExecutor(1) as pool:
        pending = pool.submit(process.communicate, timeout=TIMEOUT)

        def wait() -> Outcome | str:
            try:
                out, complaint = pending.result()
            except subprocess.TimeoutExpired:
                return {"error": f"no answer in {TIMEOUT:g} s"}
            if process.returncode != 0:
                lines = [line for line in complaint.decode(errors="replace").splitlines() if "Error" in line]
                return f"{node} failed: {lines[0] if lines else f'exit status {process.returncode}'}"
            answer: Outcome = json.loads(out)
            return answer

        try:
            yield wait
        finally:
            process.kill()


def _refuse(what: str, got: object, expected: object) -> NoReturn:
    raise WispError(
        f"the page's tokenizer or its Jinja {what}",
        got=got,
        expected=expected,
        remedy="save the tokenizer again with a current transformers, or simplify what is named here",
    )


# ---------------------------------------------------------------------------------------------------------- tokenizer


def _texts_of_added_tokens(tokenizer: Mapping[str, Any]) -> list[str]:
    """The first added tokens between words and spaces, where stripping shows, and all of them, several to a text."""
    added = {token["id"]: token["content"] for token in tokenizer.get("added_tokens") or []}
    tokens = [text for _, text in sorted(added.items())]
    alone, step = tokens[:ADDED_TOKENS_ALONE], ADDED_TOKENS_TOGETHER
    together = [" a".join(tokens[i : i + step]) for i in range(0, len(tokens), step)]
    return [*(f"one {token} two{token}\nthree" for token in alone), "".join(alone), *together]


def _compare_encoded(text: str, got: Outcome, expected: Outcome) -> None:
    if "error" in got and "error" in expected:  # a tokenizer without a token for the unknown
        return
    for key, what in (("ids", "reads"), ("special", "reads"), ("decoded", "writes")):
        if "error" in got or "error" in expected:
            _refuse(f"{what} {text!r} differently", got.get("error", "ids"), expected.get("error", "ids"))
        if got[key] != expected[key]:
            _refuse(f"{what} {text!r} differently", *_around_difference(got[key], expected[key]))


def _around_difference(got: Any, expected: Any) -> tuple[str, str]:
    """Both from shortly before the first difference, cut to a readable length."""
    same = 0
    while same < min(len(got), len(expected)) and got[same] == expected[same]:
        same += 1
    start = max(0, same - 2)
    width = 60 if isinstance(got, str) else 12

    def part(value: Any) -> str:
        return f"{value[start : start + width]!r}" + (f" from {start} on" if start else "")

    return part(got), part(expected)


# ------------------------------------------------------------------------------------------------------ chat template


def special_tokens(
    config: Mapping[str, Any], tokenizer: Mapping[str, Any], bos_token_id: int | None, eos_token_id: int | None
) -> dict[str, str]:
    """`bos_token` and so on as tokenizer_config.json names them, else the texts of the model's ids, as on the page."""
    vocabulary = (tokenizer.get("model") or {}).get("vocab") or {}
    if isinstance(vocabulary, list):  # Unigram: [[token, score], ...]
        texts = {i: entry[0] for i, entry in enumerate(vocabulary)}
    else:
        texts = {i: text for text, i in vocabulary.items()}
    texts |= {token["id"]: token["content"] for token in tokenizer.get("added_tokens") or []}
    ids = {"bos_token": bos_token_id, "eos_token": eos_token_id}
    found = {name: texts.get(token) for name, token in ids.items() if token is not None}
    for name, value in config.items():
        text = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(text, str):
            found[name] = text
    return {name: text for name, text in found.items() if text is not None}


def _compare_rendered(variables: Variables, got: Outcome, expected: Outcome) -> None:
    if ("error" in got and "error" in expected) or got == expected:
        return
    roles = ", ".join(str(message.get("role")) for message in variables["messages"])
    more = [name for name, value in variables.items() if name != "messages" and value]
    ours, theirs = got.get("text", got.get("error")), expected.get("text", expected.get("error"))
    what = (
        f"renders the chat template differently for {roles or 'no messages'} (with {', '.join(more) or 'nothing else'})"
    )
    _refuse(what, *_around_difference(ours, theirs))
