"""The steps that every graph is made of, for a chunk of any size: embedding, products, attention, logits, sampling.

Knows which kernel serves a step in decode (a chunk of one row: mat-vecs with folded norms) and in prefill (more rows:
tiled products, norms of their own). What a layer is, the subclasses say: `decoder.Decoder`, `parallel.ParallelDecoder`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from tvm import tirx
from tvm.relax.frontend import nn

from compiler.kernels import epilogue
from compiler.kernels.builder import Kernel
from compiler.kernels.epilogue import OneRow, PairRows, UnitRows
from compiler.kernels.webgpu import attention, embed, matmul, matvec, norm, packed, prefill_attention, sample
from compiler.kernels.webgpu.tuning import splits_for
from compiler.models.base import Role, WeightSpec
from compiler.network.layers import RING_SIZE, Geometry, KernelTable, Matrix, Runtime, declare_weights

Make = Callable[..., tirx.PrimFunc]
ACTIVATION = "float32"
ONE_ROW = OneRow()


class Graph(nn.Module):
    """The programs of one geometry. Build it, then `export_tvm` with an empty specification a program."""

    kernel_type: type[Kernel] = Kernel
    rms_norm_kernel: ClassVar[Make] = norm.rms_norm
    layer_norm_kernel: ClassVar[Make] = norm.layer_norm
    normalize_rotate_kernel: ClassVar[Make] = embed.normalize_rotate_chunk
    sampler: sample.Sampler = sample.SAMPLER

    def __init__(self, geometry: Geometry, specs: Sequence[WeightSpec]) -> None:
        self.geometry = geometry
        self.kernels = KernelTable(f"_{geometry.alternative.name}" if geometry.alternative else "")
        self.runtime = Runtime(geometry)
        self.weights = declare_weights(self, specs, geometry.scheme, geometry.cut_bytes)
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
    def query_columns(self) -> int:
        return self.geometry.heads.query * self.geometry.heads.size

    def embed_token(self) -> nn.Tensor:
        """x `[1, hidden]` of the state's token; cos/sin of its position go to the state."""
        g, r = self.geometry, self.runtime
        m = g.model
        x: nn.Tensor | None = None
        matrix = self.weights["embedding", None]
        shape = (m.hidden_size, m.rotary_dim // 2, g.context, g.state_words)
        for rows, parameters in matrix.parts:
            make = (embed.embed_token, matrix.scheme.name, rows, *shape, self.kernel_type)
            name = self.kernels.build("embed", *make)
            if x is None:
                arguments = [*parameters, r.rope, r.state]
                results: list[Any] = [len(arguments) - 1, ((1, m.hidden_size), ACTIVATION)]
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
        for rows, parameters in matrix.parts:
            make = (embed.embed_chunk, matrix.scheme.name, chunk, rows, hidden, self.kernel_type)
            name = self.kernels.build("embed_chunk", *make)
            arguments = [self.runtime.input_ids, *parameters]
            if x is None:
                (x,) = self.kernels.call(name, arguments, [((chunk, hidden), ACTIVATION)])
            else:
                (x,) = self.kernels.call(name, [*arguments, x], [len(arguments)])
        assert x is not None
        return x

    def rms_norm(self, role: Role, layer: int | None, chunk: int, x: nn.Tensor) -> nn.Tensor:
        """RMS norm with a dispatch of its own."""
        g, k = self.geometry, int(x.shape[-1])
        name = self.kernels.build("rms_norm", type(self).rms_norm_kernel, chunk, k, g.norm, g.state_words)
        arguments = [x, self.weights[role, layer], self.runtime.state]
        return self.kernels.call(name, arguments, [((chunk, k), ACTIVATION)])[0]

    def layer_norm(self, role: str, layer: int | None, chunk: int, x: nn.Tensor) -> nn.Tensor:
        """Layer norm, weight and bias."""
        g, k = self.geometry, int(x.shape[-1])
        name = self.kernels.build("layer_norm", type(self).layer_norm_kernel, chunk, k, g.norm, g.state_words)
        arguments = [x, self.weights[role, layer], self.weights[f"{role}_bias", layer], self.runtime.state]
        return self.kernels.call(name, arguments, [((chunk, k), ACTIVATION)])[0]

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
        unit_rows: UnitRows = ONE_ROW,
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
        normed = g.norm if norm_role else None
        if chunk == 1:
            name = self.decode_product(kind, scheme, rows, k, units, unit_rows, declare, normed)
            gamma = [self.weights[norm_role, layer]] if norm_role else []
            arguments = [x, *gamma, *matrix.whole(), *bias]
        else:
            shape = (scheme, chunk, rows, k, units, unit_rows, declare, g.state_words)
            if (packing := g.tuning.packed) and scheme in packed.SCHEMES:
                operands = self.quantize(scheme, layer, chunk, k, x, norm_role)
                name = self.kernels.build(f"{kind}_chunk", packed.matmul, *shape, packing)
            else:
                operands = [self.rms_norm(norm_role, layer, chunk, x) if norm_role else x]
                name = self.kernels.build(f"{kind}_chunk", matmul.matmul, *shape, g.tuning.tiling)
            arguments = [*operands, *matrix.whole(), self.runtime.state, *bias]
        places = [r + len(arguments) if isinstance(r, int) else r for r in results]
        return self.kernels.call(name, [*arguments, *extra], places)

    def quantize(
        self, scheme: str, layer: int | None, chunk: int, k: int, x: nn.Tensor, norm_role: Role | None
    ) -> list[nn.Tensor]:
        """x, through the norm first when there is one, as words and scales for a product in integers."""
        g = self.geometry
        kind, normed = ("norm_quantize", g.norm) if norm_role else ("quantize", None)
        name = self.kernels.build(kind, packed.quantize, scheme, chunk, k, normed, g.state_words)
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
        return epilogue.WithBias(declare, int(bias.shape[0]), unit_rows, self.geometry.norm.f16_weight), [bias]

    def decode_product(
        self,
        kind: str,
        scheme: str,
        rows: int,
        k: int,
        units: int,
        unit_rows: UnitRows,
        declare: epilogue.Declare,
        normed: matvec.Norm | None,
    ) -> str:
        """The kernel of a decode step's product."""
        tuning = self.geometry.tuning
        chosen = tuning.paired if len(unit_rows(0)) == 2 else tuning.single
        return self.kernels.build(kind, matvec.matvec, scheme, rows, k, units, unit_rows, declare, chosen, normed)

    def project(self, role: str, layer: int, chunk: int, x: nn.Tensor, residual: nn.Tensor) -> nn.Tensor:
        """residual + x W^T (+ bias)."""
        rows, _ = self.weights[role, layer].spec.shape
        declare, result = epilogue.StoreResidual(chunk, rows), ((chunk, rows), ACTIVATION)
        return self.product("project", role, layer, chunk, x, declare, [residual], [result], rows)[0]

    def query_and_cache(
        self, layer: int, chunk: int, x: nn.Tensor, norm_role: Role | None = None
    ) -> tuple[nn.Tensor, nn.Tensor]:
        """Query `[chunk, heads x size]`, and the layer's cache with this chunk's keys and values in it.

        In decode one dispatch does it, but for head norms, which need whole heads.
        """
        g, r, heads = self.geometry, self.runtime, self.geometry.heads
        query = ((chunk, self.query_columns), ACTIVATION)
        head_norms = ("query_norm", layer) in self.weights
        if chunk == 1 and not head_norms:
            declare: epilogue.Declare = epilogue.StoreRotated(g.cache, g.state_words)
            results: list[Any] = [query, 1]
            extra = [r.state, r.cache(layer)]
            units, unit_rows = heads.rows // 2, PairRows(heads)
            made = self.product("qkv", "qkv", layer, chunk, x, declare, extra, results, units, unit_rows, norm_role)
            return made[0], made[1]
        declare, result = epilogue.Store(chunk, heads.rows), ((chunk, heads.rows), ACTIVATION)
        (qkv,) = self.product("qkv", "qkv", layer, chunk, x, declare, [], [result], heads.rows, norm_role=norm_role)
        if head_norms:
            make = (type(self).normalize_rotate_kernel, g.cache, chunk, g.norm, g.state_words)
            name = self.kernels.build("normalize_rotate", *make)
            gammas = [self.weights["query_norm", layer], self.weights["key_norm", layer]]
            made = self.kernels.call(name, [qkv, *gammas, r.state, r.rope, r.cache(layer)], [query, 5])
        else:
            name = self.kernels.build("rotate", embed.rotate_chunk, g.cache, chunk, g.state_words, self.kernel_type)
            made = self.kernels.call(name, [qkv, r.state, r.rope, r.cache(layer)], [query, 3])
        return made[0], made[1]

    def attend(self, chunk: int, query: nn.Tensor, cache: nn.Tensor) -> nn.Tensor:
        """Attention `[chunk, heads x size]`; in decode split over workgroups when the context is long."""
        g, heads = self.geometry, self.geometry.heads
        result = ((chunk, self.query_columns), ACTIVATION)
        splits = splits_for(g.context) if chunk == 1 else 1
        shape = attention.Shape(g.cache, chunk, splits, g.model.sliding_window)
        if chunk > 1:
            make = (prefill_attention.attention, shape, g.state_words, g.tuning.attention)
            name = self.kernels.build("attention", *make)
            return self.kernels.call(name, [query, cache, self.runtime.state], [result])[0]
        name = self.kernels.build("attention", attention.attention, shape, g.state_words)
        partial = ((heads.query * splits, heads.size + 4), "float32")
        (out,) = self.kernels.call(name, [query, cache, self.runtime.state], [result if splits == 1 else partial])
        if splits == 1:
            return out
        name = self.kernels.build("combine", attention.combine, shape)
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
            rows = stop - start
            declare: epilogue.Declare = epilogue.Store(1, m.vocab_size, start)
            if bias is not None:
                declare = epilogue.WithBias(declare, m.vocab_size, OneRow(start), g.norm.f16_weight)
            normed = g.norm if norm_role else None
            name = self.decode_product(
                "lm_head", matrix.scheme.name, rows, matrix.spec.shape[1], rows, ONE_ROW, declare, normed
            )
            arguments = [x, *gamma, *parameters, *([bias] if bias is not None else []), self.runtime.logits]
            self.kernels.call(name, arguments, [len(arguments) - 1])

    def sample(self) -> nn.Tensor:
        """The next token, from the logits, into state and ring."""
        g, r = self.geometry, self.runtime
        vocab, words = g.model.vocab_size, g.state_words
        sampler = self.sampler
        name = self.kernels.build("scan", sampler.scan, vocab, words)
        found = self.kernels.call(name, [r.logits, r.token_counts, r.state], sampler.scanned(vocab))
        name = self.kernels.build("limit", sampler.limit, vocab, words)
        arguments = [*(found[i] for i in sampler.limit_reads), r.state]
        (cut,) = self.kernels.call(name, arguments, [((1,), "uint32")])
        name = self.kernels.build("draw", sampler.draw, vocab, RING_SIZE, words)
        arguments = [*(found[i] for i in sampler.draw_reads), cut, r.state, r.token_ring, r.token_counts]
        written = len(arguments) - 3
        return self.kernels.call(name, arguments, [written, written + 1, written + 2])[0]
