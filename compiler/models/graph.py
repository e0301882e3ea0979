"""The steps that every graph is made of, for a chunk of any size: embedding, products, attention, logits, sampling.

Knows which kernel serves a step in decode (a chunk of one row: mat-vecs with folded norms) and in prefill (more rows:
tiled products, norms of their own). What a layer is, the subclasses say: `decoder.Decoder`, `parallel.ParallelDecoder`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx
from tvm.relax.frontend import nn

from compiler.kernels import attention, embed, epilogue, matmul, matvec, norm, packed, prefill_attention, sample
from compiler.kernels.builder import Kernel
from compiler.models.base import Role, WeightSpec
from compiler.models.layers import RING_SIZE, Geometry, KernelTable, Matrix, Runtime, declare_weights
from compiler.tuning import splits_for

UnitRows = Callable[[Any], Sequence[Any]]


def one_row(unit: Any) -> Sequence[Any]:
    """A unit of output that is one row of the matrix."""
    return (unit,)


class Graph(nn.Module):
    """The programs of one geometry. Build it, then `export_tvm` with an empty specification a program."""

    kernel_type: type[Kernel] = Kernel
    sampler: sample.Sampler = sample.SAMPLER

    def __init__(self, geometry: Geometry, specs: Sequence[WeightSpec]) -> None:
        self.geometry = geometry
        self.kernels = KernelTable(f"_{geometry.alternative.name}" if geometry.alternative else "")
        self.runtime = Runtime(geometry)
        self.weights = declare_weights(self, specs, geometry.scheme, geometry.binding_bytes)
        for chunk in geometry.prefill_chunks:
            setattr(self, f"prefill_{chunk}", functools.partial(self.prefill, chunk))

    # programs

    def decode(self) -> nn.Tensor:
        """One token: reads the state, leaves logits, and the next token in the state and the ring."""
        x = self.embed_token()
        for layer in range(self.geometry.model.num_hidden_layers):
            x = self.layer(layer, x, 1)
        self.logits(x)
        return self.sample()

    def prefill(self, chunk: int) -> nn.Tensor:
        """`chunk` tokens, `chunk_length` of them valid: appends their keys and values to the cache, nothing else."""
        x = self.embed_chunk(chunk)
        last = self.geometry.model.num_hidden_layers - 1
        for layer in range(last):
            x = self.layer(layer, x, chunk)
        return self.cache_layer(last, x, chunk)

    def layer(self, layer: int, x: nn.Tensor, chunk: int) -> nn.Tensor:
        """A whole layer: x `[chunk, hidden]` -> the next layer's x."""
        raise NotImplementedError

    def cache_layer(self, layer: int, x: nn.Tensor, chunk: int) -> nn.Tensor:
        """What prefill needs of the last layer: its keys and values. Returns the cache."""
        raise NotImplementedError

    # steps

    @property
    def activation(self) -> str:
        return self.geometry.variant.activation_dtype

    @property
    def query_columns(self) -> int:
        return self.geometry.heads.query * self.geometry.heads.size

    def embed_token(self) -> nn.Tensor:
        """x `[1, hidden]` of the state's token; cos/sin of its position go to the state."""
        g, r = self.geometry, self.runtime
        m = g.model
        x: nn.Tensor | None = None
        matrix = self.weights["embedding", None]
        for rows, parameters in matrix.parts:
            name = self.kernels.build(
                ("embed", rows),
                functools.partial(
                    embed.embed_token,
                    scheme=matrix.scheme.name,
                    rows=rows,
                    k=m.hidden_size,
                    pairs=m.rotary_dim // 2,
                    context=g.context,
                    state_words=g.state_words,
                    activation=self.activation,
                    kernel_type=self.kernel_type,
                ),
            )
            if x is None:
                arguments = [*parameters, r.rope, r.state]
                results: list[Any] = [len(arguments) - 1, ((1, m.hidden_size), self.activation)]
                _, x = self.kernels.call(name, arguments, results)
            else:
                arguments = [*parameters, r.state, x]
                (x,) = self.kernels.call(name, arguments, [len(arguments) - 1])
        assert x is not None
        return x

    def embed_chunk(self, chunk: int) -> nn.Tensor:
        """x `[chunk, hidden]` of the input ids."""
        hidden = self.geometry.model.hidden_size
        x: nn.Tensor | None = None
        matrix = self.weights["embedding", None]
        scheme = matrix.scheme.name
        for rows, parameters in matrix.parts:
            name = self.kernels.build(
                ("embed_chunk", chunk, rows),
                functools.partial(
                    embed.embed_chunk,
                    scheme=scheme,
                    chunk=chunk,
                    rows=rows,
                    k=hidden,
                    activation=self.activation,
                    kernel_type=self.kernel_type,
                ),
            )
            arguments = [self.runtime.input_ids, *parameters]
            if x is None:
                (x,) = self.kernels.call(name, arguments, [((chunk, hidden), self.activation)])
            else:
                (x,) = self.kernels.call(name, [*arguments, x], [len(arguments)])
        assert x is not None
        return x

    def rms_norm(self, role: Role, layer: int | None, chunk: int, x: nn.Tensor) -> nn.Tensor:
        """RMS norm with a dispatch of its own."""
        k = self.geometry.model.hidden_size
        name = self.kernels.build(("rms_norm", chunk), lambda name: self.rms_norm_kernel(name, chunk, k))
        arguments = [x, self.weights[role, layer], self.runtime.state]
        return self.kernels.call(name, arguments, [((chunk, k), self.activation)])[0]

    def rms_norm_kernel(self, name: str, chunk: int, k: int) -> tirx.PrimFunc:
        g = self.geometry
        return norm.rms_norm(name, chunk, k, g.norm, g.state_words, self.activation)

    def layer_norm_kernel(self, name: str, chunk: int, k: int) -> tirx.PrimFunc:
        g = self.geometry
        return norm.layer_norm(name, chunk, k, g.norm, g.state_words, self.activation)

    def layer_norm(self, role: str, layer: int | None, chunk: int, x: nn.Tensor) -> nn.Tensor:
        """Layer norm, weight and bias."""
        k = self.geometry.model.hidden_size
        name = self.kernels.build(("layer_norm", chunk), lambda name: self.layer_norm_kernel(name, chunk, k))
        arguments = [x, self.weights[role, layer], self.weights[f"{role}_bias", layer], self.runtime.state]
        return self.kernels.call(name, arguments, [((chunk, k), self.activation)])[0]

    def product(
        self,
        kind: str,
        role: str,
        layer: int | None,
        chunk: int,
        x: nn.Tensor,
        declare: epilogue.Declare,
        extra: Sequence[nn.Tensor],
        results: Sequence[Any],
        units: int,
        unit_rows: UnitRows = one_row,
        norm_role: Role | None = None,
    ) -> list[nn.Tensor]:
        """x times a weight matrix, bias added, with an epilogue.

        `extra` are the epilogue's operands, in the order it declares them; a result is the index of one of them
        (written in place) or a new tensor's (shape, dtype). `norm_role` names the RMS norm that x goes through first.
        """
        g = self.geometry
        matrix: Matrix = self.weights[role, layer]
        (rows, k), scheme = matrix.spec.shape, matrix.scheme.name
        declare, bias = self.with_bias(declare, role, layer, unit_rows)
        key = (kind if chunk == 1 else f"{kind}_chunk", chunk, rows, k, bool(bias), scheme)
        if chunk == 1:
            name = self.kernels.build(
                key, lambda name: self._matvec(name, scheme, rows, k, units, unit_rows, declare, norm_role is not None)
            )
            gamma = [self.weights[norm_role, layer]] if norm_role else []
            arguments = [x, *gamma, *matrix.whole(), *bias]
        elif (packing := g.tuning.packed) and scheme in packed.SCHEMES:
            quantized = self.quantize(scheme, layer, chunk, k, x, norm_role)
            shared = (chunk, rows, k, units, unit_rows, declare, g.state_words, packing)
            name = self.kernels.build(key, lambda name: packed.matmul(name, scheme, *shared))
            arguments = [*quantized, *matrix.whole(), self.runtime.state, *bias]
        else:
            if norm_role:
                x = self.rms_norm(norm_role, layer, chunk, x)
            name = self.kernels.build(
                key,
                lambda name: matmul.matmul(
                    name,
                    scheme,
                    chunk,
                    rows,
                    k,
                    units,
                    unit_rows,
                    declare,
                    g.state_words,
                    self.activation,
                    g.tuning.tiling,
                ),
            )
            arguments = [x, *matrix.whole(), self.runtime.state, *bias]
        places = [r + len(arguments) if isinstance(r, int) else r for r in results]
        return self.kernels.call(name, [*arguments, *extra], places)

    def quantize(
        self, scheme: str, layer: int | None, chunk: int, k: int, x: nn.Tensor, norm_role: Role | None
    ) -> list[nn.Tensor]:
        """x, through the norm first when there is one, as words and scales for a product in integers."""
        g = self.geometry
        rms = g.norm if norm_role else None
        name = self.kernels.build(
            ("norm_quantize" if norm_role else "quantize", chunk, scheme, k),
            lambda name: packed.quantize(name, scheme, chunk, k, rms, g.state_words, self.activation),
        )
        gamma = [self.weights[norm_role, layer]] if norm_role else []
        words, scales = packed.quantized_shapes(chunk, k)
        return self.kernels.call(name, [x, *gamma, self.runtime.state], [(words, "uint32"), (scales, "float32")])

    def with_bias(
        self, declare: epilogue.Declare, role: str, layer: int | None, unit_rows: UnitRows
    ) -> tuple[epilogue.Declare, list[nn.Tensor]]:
        """The epilogue with the role's bias before it, and the bias, where the model has one."""
        if (f"{role}_bias", layer) not in self.weights:
            return declare, []
        bias = self.weights[f"{role}_bias", layer]
        return epilogue.with_bias(declare, int(bias.shape[0]), unit_rows, self.geometry.norm.f16_weight), [bias]

    def _matvec(
        self,
        name: str,
        scheme: str,
        rows: int,
        k: int,
        units: int,
        unit_rows: UnitRows,
        declare: epilogue.Declare,
        normed: bool,
    ) -> Any:
        g, tuning = self.geometry, self.geometry.tuning
        chosen = tuning.paired if len(unit_rows(0)) == 2 else tuning.single
        rms = g.norm if normed else None
        return matvec.matvec(name, scheme, rows, k, units, unit_rows, declare, chosen, self.activation, rms)

    def project(self, role: str, layer: int, chunk: int, x: nn.Tensor, residual: nn.Tensor) -> nn.Tensor:
        """residual + x W^T (+ bias)."""
        rows, _ = self.weights[role, layer].spec.shape
        declare = epilogue.store_residual(chunk, rows, self.activation)
        result = ((chunk, rows), self.activation)
        return self.product("project", role, layer, chunk, x, declare, [residual], [result], rows)[0]

    def query_and_cache(
        self, layer: int, chunk: int, x: nn.Tensor, norm_role: Role | None = None
    ) -> tuple[nn.Tensor, nn.Tensor]:
        """Query `[chunk, heads x size]`, and the layer's cache with this chunk's keys and values in it.

        In decode one dispatch does it, but for head norms, which need whole heads.
        """
        g, r, heads = self.geometry, self.runtime, self.geometry.heads
        query = ((chunk, self.query_columns), self.activation)
        head_norms = ("query_norm", layer) in self.weights
        if chunk == 1 and not head_norms:
            declare = epilogue.store_rotated(heads, g.context, g.state_words, self.activation)
            results: list[Any] = [query, 1]
            extra = [r.state, r.cache(layer)]
            pairs = heads.rows // 2
            made = self.product(
                "qkv", "qkv", layer, chunk, x, declare, extra, results, pairs, heads.pair_rows, norm_role
            )
            return made[0], made[1]
        declare = epilogue.store(chunk, heads.rows, self.activation)
        result = ((chunk, heads.rows), self.activation)
        (qkv,) = self.product("qkv", "qkv", layer, chunk, x, declare, [], [result], heads.rows, norm_role=norm_role)
        shared = (chunk, g.context)
        if head_norms:
            name = self.kernels.build(
                ("normalize_rotate", chunk),
                lambda name: self.normalize_rotate(name, heads, *shared),
            )
            gammas = [self.weights["query_norm", layer], self.weights["key_norm", layer]]
            made = self.kernels.call(name, [qkv, *gammas, r.state, r.rope, r.cache(layer)], [query, 5])
        else:
            name = self.kernels.build(
                ("rotate", chunk),
                lambda name: embed.rotate_chunk(name, heads, *shared, g.state_words, self.activation, self.kernel_type),
            )
            made = self.kernels.call(name, [qkv, r.state, r.rope, r.cache(layer)], [query, 3])
        return made[0], made[1]

    def normalize_rotate(self, name: str, heads: epilogue.Heads, chunk: int, context: int) -> tirx.PrimFunc:
        """The kernel that norms heads before it rotates them."""
        g = self.geometry
        return embed.normalize_rotate_chunk(name, heads, chunk, context, g.norm, g.state_words, self.activation)

    def attend(self, chunk: int, query: nn.Tensor, cache: nn.Tensor) -> nn.Tensor:
        """Attention `[chunk, heads x size]`; in decode split over workgroups when the context is long."""
        g, heads = self.geometry, self.geometry.heads
        result = ((chunk, self.query_columns), self.activation)
        splits = splits_for(g.context) if chunk == 1 else 1
        shape = attention.Shape(heads, chunk, splits, g.context, g.model.sliding_window)
        if chunk > 1:
            tiling, shared = g.tuning.attention, (g.state_words, self.activation)
            name = self.kernels.build(
                ("attention", chunk), lambda name: prefill_attention.attention(name, shape, *shared, tiling)
            )
            return self.kernels.call(name, [query, cache, self.runtime.state], [result])[0]
        name = self.kernels.build(
            ("attention", chunk), lambda name: attention.attention(name, shape, g.state_words, self.activation)
        )
        partial = ((heads.query * splits, heads.size + 4), "float32")
        (out,) = self.kernels.call(name, [query, cache, self.runtime.state], [result if splits == 1 else partial])
        if splits == 1:
            return out
        name = self.kernels.build(("combine",), lambda name: attention.combine(name, shape, self.activation))
        return self.kernels.call(name, [out], [result])[0]

    def logits(self, x: nn.Tensor) -> None:
        """The one row x through the final norm and the vocabulary projection, into the logits buffer."""
        self.vocabulary_product(x, "final_norm")

    def vocabulary_product(self, x: nn.Tensor, norm_role: Role | None) -> None:
        """The vocabulary projection, in as many parts as the matrix has; `norm_role` as of `product`."""
        g, m = self.geometry, self.geometry.model
        matrix: Matrix = self.weights["embedding" if m.tie_word_embeddings else "lm_head", None]
        bias = self.weights.get(("lm_head_bias", None))
        gamma = [self.weights[norm_role, None]] if norm_role else []
        for (start, stop), parameters in matrix.parts:
            declare = epilogue.store(1, m.vocab_size, "float32", start)
            if bias is not None:
                rows_of = functools.partial(_shifted_row, start)
                declare = epilogue.with_bias(declare, m.vocab_size, rows_of, g.norm.f16_weight)
            name = self.kernels.build(
                ("lm_head", start, stop),
                functools.partial(self._lm_head, matrix.scheme.name, stop - start, declare, norm_role is not None),
            )
            arguments = [x, *gamma, *parameters, *([bias] if bias is not None else []), self.runtime.logits]
            self.kernels.call(name, arguments, [len(arguments) - 1])

    def _lm_head(self, scheme: str, rows: int, declare: epilogue.Declare, normed: bool, name: str) -> Any:
        return self._matvec(name, scheme, rows, self.geometry.model.hidden_size, rows, one_row, declare, normed)

    def sample(self) -> nn.Tensor:
        """The next token, from the logits, into state and ring."""
        g, r = self.geometry, self.runtime
        vocab, words = g.model.vocab_size, g.state_words
        sampler = self.sampler
        name = self.kernels.build(("scan",), lambda name: sampler.scan(name, vocab, words))
        found = self.kernels.call(name, [r.logits, r.token_counts, r.state], sampler.scanned(vocab))
        name = self.kernels.build(("limit",), lambda name: sampler.limit(name, vocab, words))
        arguments = [*(found[i] for i in sampler.limit_reads), r.state]
        (cut,) = self.kernels.call(name, arguments, [((1,), "uint32")])
        name = self.kernels.build(("draw",), lambda name: sampler.draw(name, vocab, RING_SIZE, words))
        arguments = [*(found[i] for i in sampler.draw_reads), cut, r.state, r.token_ring, r.token_counts]
        written = len(arguments) - 3
        return self.kernels.call(name, arguments, [written, written + 1, written + 2])[0]


def _shifted_row(start: int, unit: Any) -> Sequence[Any]:
    return (unit + start,)
