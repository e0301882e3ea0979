"""A conversation with a plan that is replayed outside the browser: state words, prefill in chunks, logits, generation.

Knows the plan's format and the state buffer's layout (`artifact/FORMAT.md`); where programs run, the subclasses know:
`wgpu.NativeRuntime` and `wasmtime.WasmRuntime`. It serves `wisp chat`, `wisp check`, `wisp bench` and tests.
"""

from __future__ import annotations

import struct
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import numpy as np

from ..artifact.state import SAMPLING_OFFSET, VERIFIED_FROM_OFFSET, SamplingParameters
from ..errors import WispError

# Reads rows [start, stop) of a named tensor as bytes.
ReadRows = Callable[[str, int, int], bytes]


IN_PROMPT = 1 << 31  # of a word of token_counts
MOST_STEPS, BATCH_SECONDS = 8, 0.02  # steps of decode before a look at their tokens, while a look comes this often


class Session:
    """One sequence of tokens over a plan. A subclass writes and reads buffers by name and runs programs.

    `history` are the tokens whose rows the KV cache holds, `capacity` is how many it has room for.
    """

    def __init__(self, plan: Mapping[str, Any]) -> None:
        self.plan = plan
        self.history: list[int] = []
        self.capacity: int = plan["context"]

    def write(self, name: str, data: bytes, offset: int = 0) -> None:
        """Put bytes into a buffer."""
        raise NotImplementedError

    def read(self, name: str, dtype: str = "float32") -> np.ndarray:
        """The content of a buffer, after everything that was run."""
        raise NotImplementedError

    def run(self, program: str) -> None:
        """Run a program once, after everything before it."""
        raise NotImplementedError

    def reset(self) -> None:
        """Forget the conversation."""
        self.history = []

    def _set_state(self, position: int, token: int, chunk_length: int) -> None:
        self.write("state", struct.pack("<III", position, token, chunk_length))

    def set_sampling(self, parameters: SamplingParameters) -> None:
        """Write the sampling words of the state."""
        self.write("state", parameters.words(), SAMPLING_OFFSET)

    def plan_chunks(self, count: int, one_by_one: bool = False) -> list[tuple[int, int]]:
        """Cover `count` tokens by (compiled chunk, valid length): full chunks, then the smallest chunk for the rest."""
        sizes = sorted(self.plan["prefill_chunks"], reverse=True)
        chunks = []
        while count:
            fitting = [size for size in sizes if size <= count]
            size = fitting[0] if fitting and not one_by_one else sizes[-1]
            length = 1 if one_by_one else min(size, count)
            chunks.append((size, length))
            count -= length
        return chunks

    def prefill(
        self, ids: Sequence[int], one_by_one: bool = False, stopped: Callable[[], bool] = lambda: False
    ) -> bool:
        """Process all of `ids` but the last, which the next `decode` takes. Continues from the resident history.

        False when `stopped`, which is asked before each chunk, has ended it.
        """
        if not len(ids):
            raise WispError("the prompt is empty", expected="at least one token")
        if len(self.history) + len(ids) > self.capacity:
            raise WispError(
                "the prompt does not fit the context",
                got=f"{len(self.history) + len(ids)} tokens",
                expected=f"at most {self.capacity}",
                remedy="shorten it",
            )
        rest = [int(i) for i in ids[:-1]]
        if not self.plan["prefill_chunks"]:
            one_by_one = True
        for size, length in self.plan_chunks(len(rest), one_by_one):
            if stopped():
                return False
            chunk, rest = rest[:length], rest[length:]
            self._set_state(len(self.history), 0, length)
            self.write("input_ids", np.asarray(chunk, "<u4").tobytes())
            self.run(f"prefill_{size}")
            self.history += chunk
        self._set_state(len(self.history), int(ids[-1]), 0)
        return True

    @property
    def output(self) -> str:
        """The buffer that a decode step leaves its result in: `logits`, or `embedding` in plans of embedding models."""
        names = {buffer["name"] for buffer in self.plan["buffers"] if buffer["kind"] == "io"}
        return "embedding" if "embedding" in names else "logits"

    def logits(self, ids: Sequence[int], one_by_one: bool = False) -> np.ndarray:
        """What a step computes after the last of `ids`, from a fresh sequence: logits (f32, `[vocab]`).

        Of an embedding model (f32, `[hidden]`) the pooled hidden state, of any length: who compares it, normalizes it.
        """
        self.reset()
        self.set_sampling(SamplingParameters())
        self.prefill(ids, one_by_one)
        self.run("decode")
        self.history.append(int(ids[-1]))
        return self.read(self.output)

    def hear(self, mel: np.ndarray) -> None:
        """Encode a window of log-mel (f32, `[bands, frames]`); a fresh sequence then attends to it."""
        self.write("mel", np.ascontiguousarray(mel, "<f4").tobytes())
        self._set_state(0, 0, mel.shape[1] // 2)
        self.run("encode")
        self.reset()

    def next_logits(self, token: int) -> np.ndarray:
        """Append one token to the resident sequence and return the logits after it (forced decoding)."""
        self._set_state(len(self.history), token, 0)
        self.run("decode")
        self.history.append(token)
        return self.read("logits")

    def verify(self, token: int, draft: Sequence[int]) -> list[int]:
        """What is drawn after `token` and then after each of `draft`, in one program that appends rows of them all."""
        (program,) = (name for name in self.plan["programs"] if name.startswith("verify_"))
        ids, start = [token, *draft], len(self.history)
        self._set_state(start, 0, len(ids))
        self.write("state", struct.pack("<I", start), VERIFIED_FROM_OFFSET)
        self.write("input_ids", np.asarray(ids, "<u4").tobytes())
        self.run(program)
        self.history += ids
        ring = self.read("token_ring", "uint32")
        return [int(ring[(start + i + 1) % self.plan["ring_size"]]) for i in range(len(ids))]

    def generate(
        self, ids: Sequence[int], max_tokens: int, parameters: SamplingParameters, stop: Sequence[int] = ()
    ) -> list[int]:
        """Sample up to `max_tokens` tokens after `ids` from a fresh sequence; a stop token ends it and is left out."""
        self.reset()
        produced = []
        for token in self.stream(ids, max_tokens, parameters):
            if token in stop:
                break
            produced.append(token)
        return produced

    def stream(
        self,
        ids: Sequence[int],
        max_tokens: int,
        parameters: SamplingParameters,
        *,
        repeat_last_n: int | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Generator[int, None, None]:
        """Sample up to `max_tokens` tokens after `ids`, as they come; what `ids` share with the history is kept of it.

        `repeat_last_n`: the penalty for repetition is for the latest tokens alone, not for the whole sequence. Ends
        where the context does, when `stopped` says so, and whenever its reader likes.
        """
        shared = common_prefix(self.history, ids[:-1])
        self.history = self.history[:shared]
        self.set_sampling(parameters)
        if parameters.penalizes:
            counts = np.zeros(self.plan["vocab_size"], "<u4")
            counts[np.unique(np.asarray(latest(ids, repeat_last_n), int))] = IN_PROMPT
            self.write("token_counts", counts.tobytes())
        if not self.prefill(ids[shared:], stopped=stopped):
            return
        window = _Window(ids, repeat_last_n) if parameters.penalizes and repeat_last_n is not None else None
        token, left, steps = int(ids[-1]), max_tokens, 1
        while not stopped() and (count := min(steps, left, self.capacity - len(self.history))) > 0:
            started = time.perf_counter()
            for _ in range(count):
                self.run("decode")
            ring = self.read("token_ring", "uint32")
            if window is None and count == steps and time.perf_counter() - started < BATCH_SECONDS / 2:
                steps = min(2 * steps, MOST_STEPS, self.plan["ring_size"])
            left -= count
            for _ in range(count):
                self.history.append(token)
                token = int(ring[len(self.history) % self.plan["ring_size"]])
                if window is not None and (gone := window.push(token)) is not None:
                    self.write("token_counts", bytes(4), 4 * gone)
                yield token


class _Window:
    """The latest tokens of a sequence, at most `size`: which of them leaves with a new one."""

    def __init__(self, ids: Sequence[int], size: int) -> None:
        self._size = size
        self._ids = [int(i) for i in latest(ids, size)]
        self._counts = Counter(self._ids)

    def push(self, token: int) -> int | None:
        """The token that is nowhere among the latest any more, now that `token` is the newest."""
        self._ids.append(token)
        self._counts[token] += 1
        if len(self._ids) <= self._size:
            return None
        gone = self._ids.pop(0)
        self._counts[gone] -= 1
        return gone if self._counts[gone] == 0 else None


def latest(ids: Sequence[int], count: int | None) -> Sequence[int]:
    """The last `count` of them; None: all."""
    return ids if count is None else ids[len(ids) - min(count, len(ids)) :]


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences begin with alike."""
    different = (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    return next(different, min(len(a), len(b)))


def initial_content(buffer: Mapping[str, Any], read_rows: ReadRows, constants: bytes) -> bytes | None:
    """What a buffer of a plan begins with; None for zeros."""
    if buffer["kind"] == "constant":
        return constants[buffer["offset"] : buffer["offset"] + buffer["bytes"]]
    if buffer["kind"] != "weight":
        return None
    data = read_rows(buffer["name"], *buffer["rows"])
    if len(data) != buffer["bytes"]:
        raise RuntimeError(f"weight {buffer['name']}: got {len(data)} bytes, expected {buffer['bytes']}")
    return data
