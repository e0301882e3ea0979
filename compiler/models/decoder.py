"""The network that Llama, Phi-3, Mistral and Qwen share, as a Relax graph: RMS norm, rotary attention, SwiGLU.

Knows a `ModelConfig`, the weights by role, and the kernels. It knows nothing about checkpoints, about storage (Relax
plans that) or about WGSL. `Decoder` is an `nn.Module` whose methods are the artifact's programs; its parameters are the
weights under their own names and, under `runtime.`, the buffers that live between dispatches: state, token ring, KV.

Biases and head norms are there when the weights are. A decode step is 6 dispatches a layer (5 when one split holds the
context, one more with head norms) and 5 around them:

    embed                                 token -> x, cos/sin of the position -> state
    per layer
      norm + qkv + rotary + cache write   x -> query, KV cache
      attention, combine                  query, KV cache -> heads
      output projection + residual        heads, x -> x
      norm + gate, up + silu product      x -> inner
      down projection + residual          inner, x -> x
    norm + vocabulary projection          x -> logits
    scan, limit, draw                     logits -> token, ring, position
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from tvm.relax.frontend import nn

from compiler.kernels import attention, embed, epilogue, matmul, matvec, norm, sample
from compiler.models.base import WeightSpec
from compiler.models.layers import RING_SIZE, Geometry, KernelTable, Runtime, declare_weights
from compiler.tuning import splits_for, tuning_for


class Decoder(nn.Module):
    """The programs of one geometry. Build it, then `export_tvm` with an empty specification a program."""

    def __init__(self, geometry: Geometry, specs: Sequence[WeightSpec]) -> None:
        self.geometry = geometry
        self.kernels = KernelTable()
        self.runtime = Runtime(geometry)
        self.weights = declare_weights(self, specs, geometry.scheme)
        for chunk in geometry.prefill_chunks:
            setattr(self, f"prefill_{chunk}", functools.partial(self.prefill, chunk))

    # decode

    def decode(self) -> nn.Tensor:
        """One token: reads the state, leaves logits, and the next token in the state and the ring."""
        x = self._embed_token()
        for layer in range(self.geometry.model.num_hidden_layers):
            x = self._decode_attention(layer, x)
            x = self._decode_mlp(layer, x)
        self._logits(x)
        return self._sample()

    def _embed_token(self) -> nn.Tensor:
        g, r = self.geometry, self.runtime
        m, act = g.model, g.variant.activation_dtype
        x: nn.Tensor | None = None
        for rows, parameters in self.weights["embedding", None].parts:
            name = self.kernels.build(
                ("embed", rows),
                lambda name, rows=rows: embed.embed_token(
                    name, g.scheme.name, rows, m.hidden_size, m.rotary_dim // 2, g.context, g.state_words, act
                ),
            )
            if x is None:
                arguments = [*parameters, r.rope, r.state]
                results: list[Any] = [len(arguments) - 1, ((1, m.hidden_size), act)]
                _, x = self.kernels.call(name, arguments, results)
            else:
                arguments = [*parameters, r.state, x]
                (x,) = self.kernels.call(name, arguments, [len(arguments) - 1])
        assert x is not None
        return x

    def _matvec(
        self,
        kind: str,
        spec: WeightSpec,
        units: int,
        unit_rows: Callable[[Any], Sequence[Any]],
        declare: epilogue.Declare,
        normed: bool,
        biased: bool = False,
    ) -> str:
        g = self.geometry
        rows, k = spec.shape
        tuning = tuning_for(g.variant)
        if biased:
            declare = epilogue.with_bias(declare, rows, unit_rows, g.norm.f16_weight)
        return self.kernels.build(
            (kind, rows, k),
            lambda name: matvec.matvec(
                name,
                g.scheme.name,
                rows,
                k,
                units,
                unit_rows,
                declare,
                tuning.paired if len(unit_rows(0)) == 2 else tuning.single,
                g.variant.activation_dtype,
                g.norm if normed else None,
            ),
        )

    def _bias(self, role: str, layer: int) -> list[nn.Parameter]:
        """The bias beside a matrix, or nothing."""
        bias = self.weights.get((f"{role}_bias", layer))
        return [] if bias is None else [bias]

    def _decode_attention(self, layer: int, x: nn.Tensor) -> nn.Tensor:
        g, heads = self.geometry, self.geometry.heads
        act = g.variant.activation_dtype
        query, cache = self._decode_qkv(layer, x)
        query_spec = ((1, heads.query * heads.size), act)
        shape = attention.Shape(heads, 1, splits_for(g.context), g.context, g.model.sliding_window)
        name = self.kernels.build(("attention",), lambda name: attention.attention(name, shape, g.state_words, act))
        attended = query_spec
        if shape.splits > 1:
            attended = ((heads.query * shape.splits, heads.size + 4), "float32")
        (out,) = self.kernels.call(name, [query, cache, self.runtime.state], [attended])
        if shape.splits > 1:
            name = self.kernels.build(("combine",), lambda name: attention.combine(name, shape, act))
            (out,) = self.kernels.call(name, [out], [query_spec])
        return self._project("attention_output", layer, out, x)

    def _decode_qkv(self, layer: int, x: nn.Tensor) -> list[nn.Tensor]:
        """Query and cache of this token. A norm of each head needs whole heads, so it costs a dispatch."""
        g, r, heads = self.geometry, self.runtime, self.geometry.heads
        act = g.variant.activation_dtype
        qkv, bias = self.weights["qkv", layer], self._bias("qkv", layer)
        arguments = [x, self.weights["input_norm", layer], *qkv.whole()]
        query_spec = ((1, heads.query * heads.size), act)
        if ("query_norm", layer) in self.weights:
            declare = epilogue.store(1, heads.rows, act)
            name = self._matvec("qkv", qkv.spec, heads.rows, lambda unit: (unit,), declare, True, bool(bias))
            (product,) = self.kernels.call(name, [*arguments, *bias], [((1, heads.rows), act)])
            return self._normalize_rotate(layer, 1, product)
        declare = epilogue.store_rotated(heads, g.context, g.state_words, act)
        name = self._matvec("qkv", qkv.spec, heads.rows // 2, heads.pair_rows, declare, True, bool(bias))
        arguments += [*bias, r.state, r.cache(layer)]
        return self.kernels.call(name, arguments, [query_spec, len(arguments) - 1])

    def _normalize_rotate(self, layer: int, chunk: int, qkv: nn.Tensor) -> list[nn.Tensor]:
        g, r, heads = self.geometry, self.runtime, self.geometry.heads
        act = g.variant.activation_dtype
        name = self.kernels.build(
            ("normalize_rotate", chunk),
            lambda name: embed.normalize_rotate_chunk(name, heads, chunk, g.context, g.norm, g.state_words, act),
        )
        norms = [self.weights["query_norm", layer], self.weights["key_norm", layer]]
        arguments = [qkv, *norms, r.state, r.rope, r.cache(layer)]
        return self.kernels.call(name, arguments, [((chunk, heads.query * heads.size), act), len(arguments) - 1])

    def _project(self, role: str, layer: int, x: nn.Tensor, residual: nn.Tensor) -> nn.Tensor:
        """residual + x W^T."""
        act = self.geometry.variant.activation_dtype
        matrix = self.weights[role, layer]
        rows, _ = matrix.spec.shape
        bias = self._bias(role, layer)
        declare = epilogue.store_residual(1, rows, act)
        kind = "project_biased" if bias else "project"
        name = self._matvec(kind, matrix.spec, rows, lambda unit: (unit,), declare, False, bool(bias))
        (out,) = self.kernels.call(name, [x, *matrix.whole(), *bias, residual], [((1, rows), act)])
        return out

    def _decode_mlp(self, layer: int, x: nn.Tensor) -> nn.Tensor:
        act, inner = self.geometry.variant.activation_dtype, self.geometry.model.intermediate_size
        matrix = self.weights["gate_up", layer]
        declare = epilogue.store_gated(1, inner, act)
        bias = self._bias("gate_up", layer)
        name = self._matvec("gate_up", matrix.spec, inner, lambda unit: (unit, unit + inner), declare, True, bool(bias))
        arguments = [x, self.weights["post_attention_norm", layer], *matrix.whole(), *bias]
        (gated,) = self.kernels.call(name, arguments, [((1, inner), act)])
        return self._project("down", layer, gated, x)

    def _logits(self, x: nn.Tensor) -> None:
        g = self.geometry
        m = g.model
        matrix = self.weights["embedding" if m.tie_word_embeddings else "lm_head", None]
        for (start, stop), parameters in matrix.parts:
            name = self.kernels.build(
                ("lm_head", start, stop),
                lambda name, start=start, stop=stop: matvec.matvec(
                    name,
                    g.scheme.name,
                    stop - start,
                    m.hidden_size,
                    stop - start,
                    lambda unit: (unit,),
                    epilogue.store(1, m.vocab_size, "float32", start),
                    tuning_for(g.variant).single,
                    g.variant.activation_dtype,
                    g.norm,
                ),
            )
            arguments = [x, self.weights["final_norm", None], *parameters, self.runtime.logits]
            self.kernels.call(name, arguments, [len(arguments) - 1])

    def _sample(self) -> nn.Tensor:
        g, r = self.geometry, self.runtime
        vocab, words = g.model.vocab_size, g.state_words
        name = self.kernels.build(("scan",), lambda name: sample.scan(name, vocab, words))
        fresh = [((vocab,), "float32"), ((sample.scan_blocks(vocab), 2), "uint32")]
        adjusted, tops = self.kernels.call(name, [r.logits, r.token_counts, r.state], fresh)
        name = self.kernels.build(("limit",), lambda name: sample.limit(name, vocab, words))
        (cut,) = self.kernels.call(name, [adjusted, tops, r.state], [((1,), "uint32")])
        name = self.kernels.build(("draw",), lambda name: sample.draw(name, vocab, RING_SIZE, words))
        arguments = [adjusted, tops, cut, r.state, r.token_ring, r.token_counts]
        return self.kernels.call(name, arguments, [3, 4, 5])[0]

    # prefill

    def prefill(self, chunk: int) -> nn.Tensor:
        """`chunk` tokens, `chunk_length` of them valid: appends their keys and values to the cache, nothing else."""
        x = self._embed_chunk(chunk)
        last = self.geometry.model.num_hidden_layers - 1
        for layer in range(last + 1):
            x_or_cache = self._prefill_attention(layer, chunk, x, stop_at_cache=layer == last)
            if layer == last:
                return x_or_cache
            x = self._prefill_mlp(layer, chunk, x_or_cache)
        raise AssertionError("a model has at least one layer")

    def _embed_chunk(self, chunk: int) -> nn.Tensor:
        g = self.geometry
        m, act = g.model, g.variant.activation_dtype
        x: nn.Tensor | None = None
        for rows, parameters in self.weights["embedding", None].parts:
            name = self.kernels.build(
                ("embed_chunk", chunk, rows),
                lambda name, rows=rows: embed.embed_chunk(name, g.scheme.name, chunk, rows, m.hidden_size, act),
            )
            arguments = [self.runtime.input_ids, *parameters]
            if x is None:
                (x,) = self.kernels.call(name, arguments, [((chunk, m.hidden_size), act)])
            else:
                (x,) = self.kernels.call(name, [*arguments, x], [len(arguments)])
        assert x is not None
        return x

    def _normed(self, role: str, layer: int, chunk: int, x: nn.Tensor) -> nn.Tensor:
        g = self.geometry
        k, act = g.model.hidden_size, g.variant.activation_dtype
        name = self.kernels.build(
            ("rms_norm", chunk), lambda name: norm.rms_norm(name, chunk, k, g.norm, g.state_words, act)
        )
        (out,) = self.kernels.call(name, [x, self.weights[role, layer], self.runtime.state], [((chunk, k), act)])
        return out

    def _matmul(
        self,
        kind: str,
        spec: WeightSpec,
        chunk: int,
        units: int,
        unit_rows: Callable[[Any], Sequence[Any]],
        declare: epilogue.Declare,
        biased: bool = False,
    ) -> str:
        g = self.geometry
        rows, k = spec.shape
        if biased:
            declare = epilogue.with_bias(declare, rows, unit_rows, g.norm.f16_weight)
        return self.kernels.build(
            (f"{kind}_chunk", chunk, rows, k),
            lambda name: matmul.matmul(
                name,
                g.scheme.name,
                chunk,
                rows,
                k,
                units,
                unit_rows,
                declare,
                g.state_words,
                g.variant.activation_dtype,
            ),
        )

    def _prefill_attention(self, layer: int, chunk: int, x: nn.Tensor, stop_at_cache: bool) -> nn.Tensor:
        g, r, heads = self.geometry, self.runtime, self.geometry.heads
        act = g.variant.activation_dtype
        matrix = self.weights["qkv", layer]
        normed = self._normed("input_norm", layer, chunk, x)
        declare = epilogue.store(chunk, heads.rows, act)
        bias = self._bias("qkv", layer)
        name = self._matmul("qkv", matrix.spec, chunk, heads.rows, lambda unit: (unit,), declare, bool(bias))
        (qkv,) = self.kernels.call(name, [normed, *matrix.whole(), r.state, *bias], [((chunk, heads.rows), act)])
        query_spec = ((chunk, heads.query * heads.size), act)
        if ("query_norm", layer) in self.weights:
            query, cache = self._normalize_rotate(layer, chunk, qkv)
        else:
            name = self.kernels.build(
                ("rotate", chunk),
                lambda name: embed.rotate_chunk(name, heads, chunk, g.context, g.state_words, act),
            )
            query, cache = self.kernels.call(name, [qkv, r.state, r.rope, r.cache(layer)], [query_spec, 3])
        if stop_at_cache:
            return cache
        shape = attention.Shape(heads, chunk, 1, g.context, g.model.sliding_window)
        name = self.kernels.build(
            ("attention_chunk", chunk), lambda name: attention.attention(name, shape, g.state_words, act)
        )
        (out,) = self.kernels.call(name, [query, cache, r.state], [query_spec])
        return self._project_chunk("attention_output", layer, chunk, out, x)

    def _project_chunk(self, role: str, layer: int, chunk: int, x: nn.Tensor, residual: nn.Tensor) -> nn.Tensor:
        act = self.geometry.variant.activation_dtype
        matrix = self.weights[role, layer]
        rows, _ = matrix.spec.shape
        bias = self._bias(role, layer)
        declare = epilogue.store_residual(chunk, rows, act)
        kind = "project_biased" if bias else "project"
        name = self._matmul(kind, matrix.spec, chunk, rows, lambda unit: (unit,), declare, bool(bias))
        arguments = [x, *matrix.whole(), self.runtime.state, *bias, residual]
        (out,) = self.kernels.call(name, arguments, [((chunk, rows), act)])
        return out

    def _prefill_mlp(self, layer: int, chunk: int, x: nn.Tensor) -> nn.Tensor:
        act, inner = self.geometry.variant.activation_dtype, self.geometry.model.intermediate_size
        matrix = self.weights["gate_up", layer]
        normed = self._normed("post_attention_norm", layer, chunk, x)
        declare = epilogue.store_gated(chunk, inner, act)
        bias = self._bias("gate_up", layer)
        name = self._matmul(
            "gate_up", matrix.spec, chunk, inner, lambda unit: (unit, unit + inner), declare, bool(bias)
        )
        arguments = [normed, *matrix.whole(), self.runtime.state, *bias]
        (gated,) = self.kernels.call(name, arguments, [((chunk, inner), act)])
        return self._project_chunk("down", layer, chunk, gated, x)
