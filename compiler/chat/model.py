"""A model that answers: messages in, pieces of text out, with the artifact's own template, tokenizer and settings.

Knows text and ids; where programs run, `runtime` knows. What strangers programmed runs in processes with limits:
templates in `sources/sandbox.py`, the tokenizer in `tokenizer.py`.
"""

import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..artifact.inspect import require_generation
from ..artifact.state import SamplingParameters
from ..artifact.writer import load_artifact
from ..check.tokenizer import special_tokens
from ..errors import WispError
from ..runtime.choose import Running, open_best
from ..runtime.session import common_prefix
from ..sources.sandbox import render_all
from .tokenizer import ChatTokenizer

Message = Mapping[str, str]


@dataclass(frozen=True)
class Request:
    """How to answer. What is None is as the artifact says; `seed` None draws one an answer.

    `sample_len` is the most tokens of an answer (None: what the context has room for), `repeat_last_n` how many of the
    latest tokens the penalty for repetition looks at (None: all).
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None
    sample_len: int | None = None


@dataclass
class Rates:
    """What an answer took: the prompt's tokens that were new, to the first token, and those after it."""

    prompt_tokens: int = 0
    reused_tokens: int = 0
    tokens: int = 0
    prompt_seconds: float = 0.0
    decode_seconds: float = 0.0
    finish: str = "stop"  # or "length", "interrupted"

    def line(self) -> str:
        """For people."""
        new = self.prompt_tokens - self.reused_tokens
        parts = [f"prompt {self.prompt_tokens} tokens"]
        if self.reused_tokens:
            parts.append(f"{self.reused_tokens} of them kept")
        if self.prompt_seconds > 0:
            parts.append(f"{new / self.prompt_seconds:.1f} tok/s")
        answer = [f"answer {self.tokens} tokens"]
        if self.tokens > 1 and self.decode_seconds > 0:
            answer.append(f"{(self.tokens - 1) / self.decode_seconds:.1f} tok/s")
        return f"{', '.join(parts)}; {', '.join(answer)}" + ("" if self.finish == "stop" else f" ({self.finish})")


@dataclass
class ChatModel:
    """An artifact on a device. `answer` streams; the KV cache keeps what consecutive prompts share."""

    name: str
    about: str
    notes: tuple[str, ...]
    _running: Running = field(repr=False)
    _model: Mapping[str, Any] = field(repr=False)
    _tokenizer: ChatTokenizer = field(repr=False)
    _special: Mapping[str, str] = field(repr=False)

    @property
    def chats(self) -> bool:
        """Whether it has a chat template; a model without one continues a text."""
        return self._model.get("chat_template") is not None

    @property
    def context(self) -> int:
        """Most tokens of a conversation."""
        return self._running.session.capacity

    def close(self) -> None:
        """Ends the tokenizer's process."""
        self._tokenizer.close()

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Messages as the model reads them; without a template, their contents as one text.

        Raises WispError when the template refuses them or they leave no room for an answer.
        """
        if self.chats:
            given = {**self._special, "messages": list(messages), "tools": None, "documents": None}
            (outcome,) = render_all(self._model["chat_template"], [{**given, "add_generation_prompt": True}])
            if "error" in outcome:
                roles = ", ".join(message["role"] for message in messages)
                raise WispError("the model's chat template refuses the messages", got=f"{outcome['error']} ({roles})")
            ids = self._tokenizer.encode(outcome["text"], add_special_tokens=False)
        else:
            text = "".join(message["content"] for message in messages)
            ids = self._tokenizer.encode(text, add_special_tokens=True)
        if len(ids) > self.context:
            raise WispError(
                "the conversation is longer than the context",
                got=f"{len(ids)} tokens",
                expected=f"at most {self.context}",
                remedy="begin a new one (/new), or compile the model with a larger --context",
            )
        return ids

    def answer(
        self,
        messages: Sequence[Message],
        request: Request,
        rates: Rates,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Iterator[str]:
        """The answer in pieces; `rates` holds what it took, once it has ended. Raises WispError like `prompt_ids`."""
        ids = self.prompt_ids(messages)
        session, stop = self._running.session, set(self._model["stop_token_ids"])
        rates.prompt_tokens, rates.finish = len(ids), "length"
        rates.reused_tokens = common_prefix(session.history, ids[:-1])
        pieces, most = self._tokenizer, request.sample_len
        pieces.begin()
        parameters = self._sampling(request)
        stream = session.stream(
            ids,
            self.context if most is None else most,
            parameters,
            repeat_last_n=request.repeat_last_n,
            stopped=stopped,
        )
        started = first = latest = time.perf_counter()
        for token in stream:
            latest = time.perf_counter()
            first = first if rates.tokens else latest
            rates.tokens += 1
            if token in stop:
                rates.finish = "stop"
                break
            if piece := pieces.push(token):
                yield piece
        if rates.finish != "stop" and stopped():
            rates.finish = "interrupted"
        rates.prompt_seconds, rates.decode_seconds = first - started, latest - first
        if piece := pieces.rest():
            yield piece

    def _sampling(self, request: Request) -> SamplingParameters:
        own = self._model["generation"]
        given = {
            "temperature": request.temperature,
            "top_p": request.top_p,
            "top_k": request.top_k,
            "repetition_penalty": request.repeat_penalty,
        }
        seed = secrets.randbits(32) if request.seed in (None, -1) else request.seed % 2**32
        known = {name: own[name] for name in (*given, "min_p") if name in own}
        stated = {name: value for name, value in given.items() if value is not None}
        return replace(SamplingParameters(seed=seed), **known | stated)


def load_model(path: Path, variant: str | None = None) -> ChatModel:
    """An artifact on the device that runs it best. Raises WispError for what cannot be loaded, or cannot read text."""
    artifact = load_artifact(path, verify=False)
    model = artifact.model
    require_generation(artifact, "wisp chat")
    if "tokenizer.json" not in model["tokenizer"]:
        raise WispError(f"{path} has no tokenizer", expected="tokenizer.json", remedy="compile it with its weights")
    text = (path / "tokenizer.json").read_text(encoding="utf-8")
    tokenizer = ChatTokenizer(text)
    try:
        running = open_best(artifact, variant)
    except BaseException:
        tokenizer.close()
        raise
    name = model.get("name") or model["id"]
    about = f"{name}: {running.variant} on {running.device}, {running.session.capacity:,} tokens of context"
    stop = next(iter(model["stop_token_ids"]), None)
    config_file = path / "tokenizer_config.json"
    config = json.loads(config_file.read_bytes()) if config_file.name in model["tokenizer"] else {}
    special = special_tokens(config, json.loads(text), model.get("bos_token_id"), stop)
    return ChatModel(name, about, running.skipped, running, model, tokenizer, special)
