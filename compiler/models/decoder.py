"""The network that Llama and Phi-3 share, as a Relax graph: RMS norm, rotary attention, SwiGLU, tied or separate head.

Knows a `ModelConfig`, the weights by role, and the kernels. It knows nothing about checkpoints, about storage (Relax
plans that) or about WGSL. `Decoder` is an `nn.Module` whose methods are the artifact's programs; its parameters are the
weights under their own names and, under `runtime.`, the buffers that live between dispatches: state, token ring, KV.

A decode step is 6 dispatches a layer (5 when one split holds the context) and 5 around them:

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
from dataclasses import dataclass, field
from typing import Any

from tvm import tirx
from tvm.relax.frontend import nn
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from compiler.errors import WispError
from compiler.kernels import attention, embed, epilogue, matmul, matvec, norm, sample
from compiler.kernels.epilogue import STATE_HEADER, Heads
from compiler.models.base import ModelConfig, WeightSpec
from compiler.quantize import Scheme, parameter_layout
from compiler.tuning import splits_for, tuning_for
from compiler.variants import Variant

RING_SIZE = 256
MAX_BINDING = 128 * 1024 * 1024  # WebGPU's default maxStorageBufferBindingSize
PART_ROWS = 64  # a tensor is cut at multiples of this


@dataclass(frozen=True)
class Geometry:
    """What the graph is built for: one model, scheme, variant, context and set of chunk sizes."""

    model: ModelConfig
    scheme: Scheme
    variant: Variant
    context: int
    prefill_chunks: tuple[int, ...]

    @property
    def heads(self) -> Heads:
        m = self.model
        return Heads(m.num_attention_heads, m.num_key_value_heads, m.head_dim, m.rotary_dim)

    @property
    def norm(self) -> matvec.Norm:
        return matvec.Norm(self.model.rms_norm_eps, f16_weight=self.scheme.name != "q0f32")

    @property
    def state_words(self) -> int:
        return -(-(STATE_HEADER + self.model.rotary_dim) // 64) * 64

    @property
    def cache_bytes_per_position(self) -> int:
        m = self.model
        return 2 * m.num_key_value_heads * m.head_dim * (2 if self.variant.activation_dtype == "float16" else 4)


@dataclass
class KernelTable:
    """The kernels of a graph by name, each built once."""

    functions: dict[str, tirx.PrimFunc] = field(default_factory=dict)
    _names: dict[tuple[Any, ...], str] = field(default_factory=dict)

    def build(self, key: tuple[Any, ...], make: Callable[[str], tirx.PrimFunc]) -> str:
        """The name of the kernel with this key; `make(name)` builds it when it is new. `key[0]` begins the name."""
        if key not in self._names:
            name = f"{key[0]}_{len(self._names)}"
            self._names[key] = name
            self.functions[name] = make(name)
        return self._names[key]

    def call(self, name: str, arguments: Sequence[nn.Tensor], results: Sequence[Any]) -> list[nn.Tensor]:
        """Emit a call. A result is an argument's index (written in place) or the (shape, dtype) of a new tensor.

        Relax sees a function of the tensors' own shapes; the kernel itself binds the same bytes as vectors.
        """
        fresh = [r for r in results if not isinstance(r, int)]
        with IRBuilder() as builder:
            with T.prim_func(private=True):
                for i, argument in enumerate(arguments):
                    T.arg(f"a{i}", T.buffer(argument.shape, argument.dtype))
                for i, (shape, dtype) in enumerate(fresh):
                    T.arg(f"r{i}", T.buffer(shape, dtype))
                T.evaluate(0)
        signature = builder.get().with_attr("wisp.kernel", name)
        outputs = [
            nn.Tensor.placeholder(arguments[r].shape, arguments[r].dtype)
            if isinstance(r, int)
            else nn.Tensor.placeholder(*r)
            for r in results
        ]
        out: Any = outputs if len(outputs) > 1 else outputs[0]
        if len(fresh) == len(results):
            value = nn.op.tensor_ir_op(signature, name, list(arguments), out)
        else:
            places = [r if isinstance(r, int) else -1 for r in results]
            value = nn.op.tensor_ir_inplace_op(signature, name, list(arguments), places, out)
        return list(value) if len(outputs) > 1 else [value]


class Matrix(nn.Module):
    """A weight matrix, cut by rows where it exceeds what one binding may hold."""

    def __init__(self, spec: WeightSpec, scheme: Scheme) -> None:
        self.spec = spec
        self.parts: list[tuple[tuple[int, int], list[nn.Parameter]]] = []
        rows, _ = spec.shape
        layout = parameter_layout(spec, scheme)
        widest = max(_row_bytes(shape, dtype) for _, dtype, shape in layout)
        most = MAX_BINDING // widest
        if rows > most:
            pieces = -(-rows // most)
            most = -(-rows // pieces // PART_ROWS) * PART_ROWS
        for start in range(0, rows, most):
            stop = min(rows, start + most)
            parameters = []
            for name, dtype, shape in layout:
                parameter = nn.Parameter((stop - start, *shape[1:]), dtype)
                label = name if stop - start == rows else f"{name}@{start}:{stop}"
                setattr(self, label, parameter)
                parameters.append(parameter)
            self.parts.append(((start, stop), parameters))

    def whole(self) -> list[nn.Parameter]:
        """The bindings of a matrix that is in one piece."""
        if len(self.parts) != 1:
            raise WispError(
                f"weight {self.spec.name} exceeds the binding limit",
                got=f"shape {list(self.spec.shape)}",
                expected=f"at most {MAX_BINDING} bytes",
                remedy="only the embedding and the vocabulary projection may be larger",
            )
        return self.parts[0][1]


def _row_bytes(shape: Sequence[int], dtype: str) -> int:
    size = 2 if dtype == "float16" else 4
    for extent in shape[1:]:
        size *= extent
    return size


class Runtime(nn.Module):
    """The buffers that outlive a dispatch list; the plan gives each its kind by its name."""

    def __init__(self, geometry: Geometry) -> None:
        m, g = geometry.model, geometry
        self.state = nn.Parameter((g.state_words,), "uint32")
        self.rope = nn.Parameter((embed.rope_words(m.rotary_dim // 2, g.context),), "float32")
        self.input_ids = nn.Parameter((max(g.prefill_chunks, default=1),), "uint32")
        self.token_ring = nn.Parameter((RING_SIZE,), "uint32")
        self.token_counts = nn.Parameter((m.vocab_size,), "uint32")
        self.logits = nn.Parameter((m.vocab_size,), "float32")
        row = 2 * m.num_key_value_heads * m.head_dim
        for layer in range(m.num_hidden_layers):
            setattr(self, f"kv.{layer}", nn.Parameter((g.context, row), g.variant.activation_dtype))

    def cache(self, layer: int) -> nn.Parameter:
        parameter: nn.Parameter = getattr(self, f"kv.{layer}")
        return parameter


class Decoder(nn.Module):
    """The programs of one geometry. Build it, then `export_tvm` with `programs()` as the specification."""

    def __init__(self, geometry: Geometry, specs: Sequence[WeightSpec]) -> None:
        self.geometry = geometry
        self.kernels = KernelTable()
        self.runtime = Runtime(geometry)
        self.weights: dict[tuple[str, int | None], Any] = {}
        for spec in specs:
            if spec.kind == "matrix":
                matrix = Matrix(spec, geometry.scheme)
                setattr(self, f"matrix{len(self.weights)}", matrix)
                self.weights[spec.role, spec.layer] = matrix
            else:
                ((name, dtype, shape),) = parameter_layout(spec, geometry.scheme)
                parameter = nn.Parameter(shape, dtype)
                setattr(self, name, parameter)
                self.weights[spec.role, spec.layer] = parameter
        for chunk in geometry.prefill_chunks:
            setattr(self, f"prefill_{chunk}", functools.partial(self.prefill, chunk))

    def programs(self) -> dict[str, dict[str, Any]]:
        """The programs' names, as `export_tvm` wants them."""
        names = ["decode", *(f"prefill_{chunk}" for chunk in self.geometry.prefill_chunks)]
        return {name: {} for name in names}

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
    ) -> str:
        g = self.geometry
        rows, k = spec.shape
        tuning = tuning_for(g.variant)
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

    def _decode_attention(self, layer: int, x: nn.Tensor) -> nn.Tensor:
        g, r, heads = self.geometry, self.runtime, self.geometry.heads
        act = g.variant.activation_dtype
        qkv, cache = self.weights["qkv", layer], r.cache(layer)
        declare = epilogue.store_rotated(heads, g.context, g.state_words, act)
        name = self._matvec("qkv", qkv.spec, heads.rows // 2, heads.pair_rows, declare, True)
        arguments = [x, self.weights["input_norm", layer], *qkv.whole(), r.state]
        query_spec = ((1, heads.query * heads.size), act)
        query, cache = self._query_and_cache(name, arguments, query_spec, cache)
        shape = attention.Shape(heads, 1, splits_for(g.context), g.context)
        name = self.kernels.build(
            ("attention",), lambda name: attention.attention(name, shape, g.state_words, act)
        )
        attended = query_spec
        if shape.splits > 1:
            attended = ((heads.query * shape.splits, heads.size + 4), "float32")
        (out,) = self.kernels.call(name, [query, cache, r.state], [attended])
        if shape.splits > 1:
            name = self.kernels.build(("combine",), lambda name: attention.combine(name, shape, act))
            (out,) = self.kernels.call(name, [out], [query_spec])
        return self._project("attention_output", layer, out, x)

    def _query_and_cache(self, name: str, arguments: list[nn.Tensor], query: Any, cache: nn.Tensor) -> list[nn.Tensor]:
        return self.kernels.call(name, [*arguments, cache], [query, len(arguments)])

    def _project(self, role: str, layer: int, x: nn.Tensor, residual: nn.Tensor) -> nn.Tensor:
        """residual + x W^T."""
        act = self.geometry.variant.activation_dtype
        matrix = self.weights[role, layer]
        rows, _ = matrix.spec.shape
        declare = epilogue.store_residual(1, rows, act)
        name = self._matvec("project", matrix.spec, rows, lambda unit: (unit,), declare, False)
        (out,) = self.kernels.call(name, [x, *matrix.whole(), residual], [((1, rows), act)])
        return out

    def _decode_mlp(self, layer: int, x: nn.Tensor) -> nn.Tensor:
        act, inner = self.geometry.variant.activation_dtype, self.geometry.model.intermediate_size
        matrix = self.weights["gate_up", layer]
        declare = epilogue.store_gated(1, inner, act)
        name = self._matvec("gate_up", matrix.spec, inner, lambda unit: (unit, unit + inner), declare, True)
        arguments = [x, self.weights["post_attention_norm", layer], *matrix.whole()]
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
    ) -> str:
        g = self.geometry
        rows, k = spec.shape
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
        name = self._matmul("qkv", matrix.spec, chunk, heads.rows, lambda unit: (unit,), declare)
        (qkv,) = self.kernels.call(name, [normed, *matrix.whole(), r.state], [((chunk, heads.rows), act)])
        name = self.kernels.build(
            ("rotate", chunk),
            lambda name: embed.rotate_chunk(name, heads, chunk, g.context, g.state_words, act),
        )
        query_spec = ((chunk, heads.query * heads.size), act)
        query, cache = self._query_and_cache(name, [qkv, r.state, r.rope], query_spec, r.cache(layer))
        if stop_at_cache:
            return cache
        shape = attention.Shape(heads, chunk, 1, g.context)
        name = self.kernels.build(
            ("attention_chunk", chunk), lambda name: attention.attention(name, shape, g.state_words, act)
        )
        (out,) = self.kernels.call(name, [query, cache, r.state], [query_spec])
        return self._project_chunk("attention_output", layer, chunk, out, x)

    def _project_chunk(self, role: str, layer: int, chunk: int, x: nn.Tensor, residual: nn.Tensor) -> nn.Tensor:
        act = self.geometry.variant.activation_dtype
        matrix = self.weights[role, layer]
        rows, _ = matrix.spec.shape
        declare = epilogue.store_residual(chunk, rows, act)
        name = self._matmul("project", matrix.spec, chunk, rows, lambda unit: (unit,), declare)
        arguments = [x, *matrix.whole(), self.runtime.state, residual]
        (out,) = self.kernels.call(name, arguments, [((chunk, rows), act)])
        return out

    def _prefill_mlp(self, layer: int, chunk: int, x: nn.Tensor) -> nn.Tensor:
        act, inner = self.geometry.variant.activation_dtype, self.geometry.model.intermediate_size
        matrix = self.weights["gate_up", layer]
        normed = self._normed("post_attention_norm", layer, chunk, x)
        declare = epilogue.store_gated(chunk, inner, act)
        name = self._matmul("gate_up", matrix.spec, chunk, inner, lambda unit: (unit, unit + inner), declare)
        (gated,) = self.kernels.call(
            name, [normed, *matrix.whole(), self.runtime.state], [((chunk, inner), act)]
        )
        return self._project_chunk("down", layer, chunk, gated, x)
