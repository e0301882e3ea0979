"""A chat in a terminal: lines in, answers out as they come, what they took after each.

Answers go to stdout, everything else to stderr. Ctrl+C stops an answer, Ctrl+D leaves. Knows a terminal and a model
that answers; nothing of devices.
"""

import contextlib
import io
import re
import signal
import sys
from collections.abc import Callable, Iterator
from typing import TextIO

from ..errors import WispError
from .model import ChatModel, Message, Rates, Request

CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tabs and ends of lines
HELP = "/new begins anew, Ctrl+C stops an answer, Ctrl+D leaves"


def chat(model: ChatModel, request: Request, *, prompt: str | None = None, system: str | None = None) -> None:
    """Answers `prompt` and returns, or talks until the input ends.

    Raises WispError when `prompt` cannot be answered, and KeyboardInterrupt when its answer was stopped.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # nothing is half-written here, and only Ctrl+C is to stop an answer
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # what is no text is replaced, not refused
    _say(model.about)
    for note in model.notes:
        _say(note)
    if not model.chats:
        _say("it has no chat template: it continues what you write, and remembers nothing")
        if system is not None:
            raise WispError("a model without a chat template takes no system prompt", got="--system")
    conversation: list[Message] = [] if system is None else [{"role": "system", "content": _text(system)}]
    if prompt is not None:
        if _answer(model, request, conversation, _text(prompt)).finish == "interrupted":
            raise KeyboardInterrupt
        return
    _converse(model, request, conversation)


def _converse(model: ChatModel, request: Request, conversation: list[Message]) -> None:
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 (lines can then be edited and recalled)
    terminal = sys.stdin.isatty()
    if terminal:
        _say(HELP)
    beginning = len(conversation)
    while (line := _read_line("> " if terminal else "")) is not None:
        match line.strip():
            case "":
                continue
            case "/new":
                del conversation[beginning:]
                _say("a new conversation")
            case "/quit" | "/exit":
                return
            case command if command.startswith("/") and " " not in command:
                _say(f"{command} is no command; {HELP}")
            case _:
                try:
                    _answer(model, request, conversation, line)
                except WispError as error:
                    _say(str(error))


def _answer(model: ChatModel, request: Request, conversation: list[Message], text: str) -> Rates:
    """Appends a message and its answer, also one that was stopped; nothing when there is none."""
    asked: Message = {"role": "user", "content": text}
    rates, pieces = Rates(), []
    with _interrupts() as stopped:
        try:
            for piece in model.answer([*conversation, asked] if model.chats else [asked], request, rates, stopped):
                _write(sys.stdout, piece)
                pieces.append(piece)
        except WispError:
            if not stopped():  # a terminal's Ctrl+C goes to the template's process too
                raise
            rates.finish = "interrupted"
    _write(sys.stdout, "\n")
    if model.chats:
        conversation += [asked, {"role": "assistant", "content": "".join(pieces)}]
    _say(f"[{rates.line()}]")
    return rates


@contextlib.contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl+C was pressed since: nothing is torn out of a driver's hands."""
    pressed = []
    before = signal.signal(signal.SIGINT, lambda *_: pressed.append(True))
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)


def _read_line(prompt: str) -> str | None:
    """The next line, None at the end. Ctrl+C takes what was typed back."""
    while True:
        try:
            return _text(input(prompt))
        except EOFError:
            _say("")
            return None
        except KeyboardInterrupt:
            _say("")


def _text(typed: str) -> str:
    """What was typed or given as an argument, without bytes that are no text."""
    return typed.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _write(stream: TextIO, text: str) -> None:
    """What a model says moves no cursor and writes no clipboard: control characters are left out."""
    stream.write(CONTROLS.sub("", text))
    stream.flush()


def _say(line: str) -> None:
    _write(sys.stderr, f"{line}\n")
