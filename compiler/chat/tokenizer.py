"""The tokenizer of a chat, in a process of its own with limits: a text that it would read for hours ends in a refusal.

Knows tokenizer.json and text, no model. The child is this module run as a program: it answers a line of JSON with a
line of JSON for as long as the chat lasts, and is started anew where a text, or Ctrl+C, has ended it.
"""

import json
import signal
import subprocess
import sys
import threading
from typing import Any

from ..errors import WispError
from ..sources.sandbox import LONGEST_WAIT, TOKENIZER_LIMITS, Limits, program, refuse, set_limits, why_it_ended

WHAT = "tokenizer.json"
TEXT_SECONDS = 10  # of processor time, for a conversation or a piece of an answer: milliseconds are usual


class ChatTokenizer:
    """Texts to ids, and ids to texts as they come. Raises WispError for a tokenizer that cannot be read."""

    def __init__(self, tokenizer: str) -> None:
        self._tokenizer = tokenizer
        self._limits = Limits(TEXT_SECONDS, TOKENIZER_LIMITS.bytes)
        self._process: subprocess.Popen[bytes] | None = None
        self._running()

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        """Raises WispError for a text that cannot be read, or not within the limits."""
        self._running()
        ids: list[int] = self._ask(encode=text, special=add_special_tokens)["ids"]
        return ids

    def begin(self) -> None:
        """An answer: `push` gives what is certain after each of its ids, `rest` what is left in the end."""
        self._running()
        self._ask(begin=True)

    def push(self, token: int) -> str:
        text: str = self._ask(push=token)["text"]
        return text

    def rest(self) -> str:
        text: str = self._ask(rest=True)["text"]
        return text

    def close(self) -> None:
        """Ends the process; another call would start it again."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _running(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self.close()
        self._process = subprocess.Popen(
            **program(__name__), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            self._exchange({"load": self._tokenizer, "seconds": self._limits.seconds}, TOKENIZER_LIMITS)
        except WispError:
            self.close()
            raise

    def _ask(self, **request: Any) -> dict[str, Any]:
        return self._exchange(request, self._limits)

    def _exchange(self, request: dict[str, Any], limits: Limits) -> dict[str, Any]:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        # Where the system bounds no processor time, this does.
        timer = threading.Timer(LONGEST_WAIT, process.kill)
        timer.start()
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = b""
        finally:
            timer.cancel()
        if not line.endswith(b"\n"):
            _, complaint = process.communicate()
            self._process = None
            refuse(WHAT, why_it_ended(process.returncode, complaint, limits), limits)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WispError("the tokenizer cannot read a text", got=answer["error"])
        return answer


# -------------------------------------------------------------------------------------------------------- in the child


class Pieces:
    """Text as it becomes certain, a token at a time. `tokenizer` is a `tokenizers.Tokenizer`."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._written = ""
        self._begin()

    def push(self, token: int) -> str:
        self._ids.append(token)
        piece = self._step(token)
        self._written += piece
        return piece

    def _begin(self) -> None:
        from tokenizers.decoders import DecodeStream

        self._stream = DecodeStream(skip_special_tokens=True)

    def _step(self, token: int) -> str:
        """Bytes that never become a character make the stream lose its place: it begins anew at this token."""
        try:
            piece: str | None = self._stream.step(self._tokenizer, token)
        except Exception as error:
            if "Invalid prefix" not in str(error):  # `tokenizers` has no class for it
                raise
            self._begin()
            piece = self._stream.step(self._tokenizer, token)
        return piece or ""

    def rest(self) -> str:
        """Half a character, at the end of the answer."""
        whole: str = self._tokenizer.decode(self._ids, skip_special_tokens=True)
        return whole[len(self._written) :] if whole.startswith(self._written) else ""


def _serve() -> None:
    """Ctrl+C goes to this process too: it ends one that reads a text, and none that writes an answer."""
    first = json.loads(sys.stdin.readline())
    set_limits(TOKENIZER_LIMITS)
    answer, tokenizer = _load(first["load"])
    limits = Limits(first["seconds"], TOKENIZER_LIMITS.bytes)
    pieces = None
    while True:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print(json.dumps(answer), flush=True)
        if not (line := sys.stdin.readline()):
            return
        request = json.loads(line)
        set_limits(limits)
        if "begin" in request:
            pieces = Pieces(tokenizer)
        if "encode" in request:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        try:
            answer = _answer(tokenizer, pieces, request)
        except MemoryError:
            raise
        except Exception as error:  # `tokenizers` raises nothing more special
            answer = {"error": str(error)}


def _load(text: str) -> tuple[dict[str, Any], Any]:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(text)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode("Hello")
    except MemoryError:
        raise
    except Exception as error:
        return {"error": str(error)}, None
    return {}, tokenizer


def _answer(tokenizer: Any, pieces: Pieces | None, request: dict[str, Any]) -> dict[str, Any]:
    if "encode" in request:
        return {"ids": tokenizer.encode(request["encode"], add_special_tokens=request["special"]).ids}
    assert pieces is not None
    if "push" in request:
        return {"text": pieces.push(request["push"])}
    return {"text": pieces.rest()} if "rest" in request else {}


if __name__ == "__main__":
    _serve()
