"""What strangers programmed, run in a child process with limits: tokenizers, chat templates and PEFT's patterns.

A template may loop or fill the memory, a regular expression may backtrack for hours. The system ends the child when it
has used up its processor time or memory. Knows JSON values; nothing of the model. The child, this module run as a
program, imports nothing else of the compiler but its errors and, for templates, `jinja.py`. A chat keeps a child of its
own for its tokenizer (`chat/tokenizer.py`).
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from ..errors import WispError
from ..places import PACKAGE
from .jinja import parse, render

if sys.platform != "win32":  # there the wait alone is bounded
    import resource

OUT_OF_MEMORY = 3  # the child's exit status
LONGEST_WAIT = 600.0  # seconds, for a child that uses no processor time
LONGEST_TEXT = 1 << 20  # characters of a short conversation


@dataclass(frozen=True)
class Limits:
    """Seconds of processor time and bytes of address space."""

    seconds: int
    bytes: int


# A vocabulary of 256,000 takes about two seconds and a gigabyte; a template or a pattern milliseconds.
TOKENIZER_LIMITS = Limits(seconds=60, bytes=8 << 30)
TEMPLATE_LIMITS = Limits(seconds=10, bytes=768 << 20)
PATTERN_LIMITS = Limits(seconds=5, bytes=768 << 20)

Tree = list[Any]  # a template's statements, as `artifact/template.py` describes them
Outcome = Mapping[str, Any]  # what came out, or {"error": why nothing did}


# -------------------------------------------------------------------------------------------------------- to the child


def encode_all(tokenizer: str, texts: Sequence[str]) -> list[Outcome]:
    """Each text's ids, with and without special tokens, and what they decode to. `tokenizer` is tokenizer.json's text.

    Raises WispError for a tokenizer that cannot be read, or not within the limits.
    """
    request = {"kind": "tokenizer", "tokenizer": tokenizer, "texts": list(texts)}
    answer = _ask(request, "tokenizer.json", TOKENIZER_LIMITS)
    if "error" in answer:
        raise WispError(
            "tokenizer.json cannot be read",
            got=answer["error"],
            expected="what Hugging Face's tokenizers writes",
            remedy="save the tokenizer again with a current transformers",
        )
    encoded: list[Outcome] = answer["encoded"]
    return encoded


def encode(tokenizer: Path, text: str) -> list[int]:
    """The ids of one text, special tokens among them, by a tokenizer.json. Raises WispError like `encode_all`."""
    (outcome,) = encode_all(tokenizer.read_text(encoding="utf-8"), [text])
    if "error" in outcome:
        raise WispError("the tokenizer cannot read the text", got=outcome["error"], remedy="give another text")
    ids: list[int] = outcome["special"]
    return ids


def render_all(template: str, given: Sequence[Mapping[str, Any]]) -> list[Outcome]:
    """What transformers makes of each set of variables: `messages`, `tools`, `bos_token` and so on.

    Raises WispError for a template that breaks the limits.
    """
    request = {"kind": "template", "template": template, "given": list(given)}
    rendered: list[Outcome] = _ask(request, "the chat template", TEMPLATE_LIMITS)["rendered"]
    return rendered


def parse_template(template: str) -> Tree:
    """A chat template's syntax tree, as `artifact/template.py` describes it. Raises WispError where there is none."""
    answer = _ask({"kind": "parse", "template": template}, "the chat template", TEMPLATE_LIMITS)
    if "error" in answer:
        raise WispError(
            "the chat template cannot be read",
            got=answer["error"],
            expected="a Jinja template as transformers takes it",
            remedy="correct it in the checkpoint",
        )
    tree: Tree = answer["tree"]
    return tree


def first_matches(patterns: Sequence[str], names: Sequence[str], what: str) -> list[int | None]:
    """For each name the first of the regular expressions that matches it from its start, by index.

    Raises WispError for an expression that is none, and for one that breaks the limits.
    """
    answer = _ask({"kind": "patterns", "patterns": list(patterns), "names": list(names)}, what, PATTERN_LIMITS)
    return _found(answer, what)


def match_patterns(patterns: Sequence[str], names: Sequence[str], what: str) -> list[int | None]:
    """`first_matches` in this process, for expressions that cannot take long."""
    return _found(_match_patterns(patterns, names), what)


def _found(answer: Outcome, what: str) -> list[int | None]:
    if "error" in answer:
        raise WispError(f"{what} is not usable", got=answer["got"], expected=answer["error"])
    found: list[int | None] = answer["found"]
    return found


def program(module: str) -> dict[str, Any]:
    """What `subprocess` takes to run a module of the compiler as a child."""
    # Threads of `tokenizers` would each reserve address space, and several would share the seconds.
    environment = os.environ | {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "MALLOC_ARENA_MAX": "1"}
    return {"args": [sys.executable, "-m", module], "cwd": PACKAGE.parent, "env": environment}


def _ask(request: Mapping[str, Any], what: str, limits: Limits) -> dict[str, Any]:
    content = json.dumps({**request, "limits": asdict(limits)}).encode()
    try:
        done = subprocess.run(**program(__name__), input=content, capture_output=True, timeout=LONGEST_WAIT)
    except subprocess.TimeoutExpired:
        refuse(what, f"no answer in {LONGEST_WAIT:g} s", limits)
    if done.returncode == 0:
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer
    refuse(what, why_it_ended(done.returncode, done.stderr, limits), limits)


def why_it_ended(status: int, stderr: bytes, limits: Limits) -> str:
    """What a child that gave no answer used up, by its exit status and its last words."""
    if status == -getattr(signal, "SIGXCPU", 0):
        return f"more than {limits.seconds} s of processor time"
    complaint = stderr.decode(errors="replace").strip().splitlines()
    if status == OUT_OF_MEMORY or any(sign in " ".join(complaint) for sign in ("memory allocation", "MemoryError")):
        return f"more than {limits.bytes >> 20} MiB of memory"
    return complaint[-1] if complaint else f"exit status {status}"


def refuse(what: str, got: str, limits: Limits) -> NoReturn:
    """Raises the WispError of what does not run within its limits."""
    raise WispError(
        f"{what} cannot be used: it does not run within its limits",
        got=got,
        expected=f"at most {limits.seconds} s and {limits.bytes >> 20} MiB for a few short texts",
        remedy="take that file of the original model",
    )


# -------------------------------------------------------------------------------------------------------- in the child


def set_limits(limits: Limits) -> None:
    """From here on; beyond, the system ends the process, or Python raises MemoryError."""
    if sys.platform == "win32":
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + 1 + limits.seconds
    for kind, value in ((resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, limits.bytes)):
        _, hard = resource.getrlimit(kind)
        allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            resource.setrlimit(kind, (allowed, hard))
        except (ValueError, OSError):  # macOS knows no limit of address space
            continue
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _attempt(make: Callable[..., Outcome], *arguments: Any) -> Outcome:
    """What a function makes, or why it makes nothing: templates are programs, and may raise anything."""
    try:
        return make(*arguments)
    except MemoryError:
        raise
    except Exception as error:
        return {"error": str(error) or type(error).__name__}


def _encode_texts(tokenizer: str, texts: Sequence[str]) -> Outcome:
    from tokenizers import Tokenizer

    try:
        loaded = Tokenizer.from_str(tokenizer)
    except MemoryError:
        raise
    except Exception as error:  # `tokenizers` raises nothing more special
        return {"error": str(error)}
    loaded.no_truncation()
    loaded.no_padding()

    def encode_one(text: str) -> Outcome:
        ids = loaded.encode(text, add_special_tokens=False).ids
        return {"ids": ids, "special": loaded.encode(text).ids, "decoded": loaded.decode(ids)}

    return {"encoded": [_attempt(encode_one, text) for text in texts]}


def _render_conversations(template: str, given: Sequence[Mapping[str, Any]]) -> Outcome:
    def render_one(variables: Mapping[str, Any]) -> Outcome:
        text = render(template, variables)
        return {"text": text} if len(text) <= LONGEST_TEXT else {"error": f"a prompt of {len(text)} characters"}

    return {"rendered": [_attempt(render_one, variables) for variables in given]}


def _parse_template(template: str) -> Outcome:
    return _attempt(lambda: {"tree": parse(template)})


def _match_patterns(patterns: Sequence[str], names: Sequence[str]) -> Outcome:
    compiled = []
    for pattern in patterns:
        try:
            compiled.append(re.compile(pattern))
        except (re.error, RecursionError, OverflowError) as error:
            return {"error": str(error), "got": repr(pattern)[:200]}
    indices = range(len(compiled))
    return {"found": [next((i for i in indices if compiled[i].match(name)), None) for name in names]}


def _answer() -> None:
    request = json.load(sys.stdin)
    set_limits(Limits(**request["limits"]))
    try:
        match request["kind"]:
            case "tokenizer":
                answer = _encode_texts(request["tokenizer"], request["texts"])
            case "template":
                answer = _render_conversations(request["template"], request["given"])
            case "parse":
                answer = _parse_template(request["template"])
            case _:
                answer = _match_patterns(request["patterns"], request["names"])
        json.dump(answer, sys.stdout)
        sys.stdout.flush()
    except MemoryError:
        os._exit(OUT_OF_MEMORY)


if __name__ == "__main__":
    _answer()
