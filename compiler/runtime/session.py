"""A conversation with a plan that is replayed outside the browser: state words, prefill in chunks, logits, generation.

Knows the plan's format and the state buffer's layout (`artifact/FORMAT.md`); where programs run, the subclasses know:
`wgpu.NativeRuntime` and `wasmtime.WasmRuntime`. It serves `wisp check`, `wisp bench` and tests.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from compiler.artifact.state import SAMPLING_OFFSET, SamplingParameters
from compiler.errors import WispError

# Reads rows [start, stop) of a named tensor as bytes.
ReadRows = Callable[[str, int, int], bytes]


class Session:
    """One sequence of tokens over a plan. A subclass writes and reads buffers by name and runs programs."""

    def __init__(self, plan: Mapping[str, Any]) -> None:
        self.plan = plan
        self.history: list[int] = []

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

    def prefill(self, ids: Sequence[int], one_by_one: bool = False) -> None:
        """Process all of `ids` but the last, which the next `decode` takes. Continues from the resident history."""
        if not len(ids):
            raise WispError("the prompt is empty", expected="at least one token")
        if len(self.history) + len(ids) > self.plan["context"]:
            raise WispError(
                "the prompt does not fit the context",
                got=f"{len(self.history) + len(ids)} tokens",
                expected=f"at most {self.plan['context']}",
                remedy="shorten it",
            )
        position, rest = len(self.history), list(ids[:-1])
        if not self.plan["prefill_chunks"]:
            one_by_one = True
        for size, length in self.plan_chunks(len(rest), one_by_one):
            chunk, rest = rest[:length], rest[length:]
            self._set_state(position, 0, length)
            self.write("input_ids", np.asarray(chunk, "<u4").tobytes())
            self.run(f"prefill_{size}")
            position += length
        self._set_state(position, int(ids[-1]), 0)
        self.history += [int(i) for i in ids[:-1]]

    def logits(self, ids: Sequence[int], one_by_one: bool = False) -> np.ndarray:
        """Logits (f32, `[vocab]`) after the last of `ids`, from a fresh sequence."""
        self.reset()
        self.set_sampling(SamplingParameters())
        self.prefill(ids, one_by_one)
        self.run("decode")
        self.history.append(int(ids[-1]))
        return self.read("logits")

    def next_logits(self, token: int) -> np.ndarray:
        """Append one token to the resident sequence and return the logits after it (forced decoding)."""
        self._set_state(len(self.history), token, 0)
        self.run("decode")
        self.history.append(token)
        return self.read("logits")

    def generate(
        self, ids: Sequence[int], max_tokens: int, parameters: SamplingParameters, stop: Sequence[int] = ()
    ) -> list[int]:
        """Sample up to `max_tokens` tokens after `ids` from a fresh sequence; a stop token ends it and is left out."""
        self.reset()
        self.set_sampling(parameters)
        if parameters.penalizes:
            counts = np.zeros(self.plan["vocab_size"], "<u4")
            counts[np.unique(np.asarray(ids))] = 1 << 31
            self.write("token_counts", counts.tobytes())
        self.prefill(ids)
        self.history.append(int(ids[-1]))
        produced: list[int] = []
        while len(produced) < max_tokens and len(self.history) < self.plan["context"] + 1:
            self.run("decode")
            token = int(self.read("token_ring", "uint32")[len(self.history) % self.plan["ring_size"]])
            if token in stop:
                break
            produced.append(token)
            self.history.append(token)
        return produced


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
