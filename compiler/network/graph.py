"""A network's description as the programs of a graph: embedding, layers from norm to norm, logits, sampling.

Knows what the parts of a layer are, whatever the architecture; which kernel serves a step, the backend says that the
graph is composed with. On WebGPU a decode step of Llama is 6 dispatches a layer (5 when one split holds the context)
and 5 around them:

    embed                                 token -> x, cos/sin of the position -> state
    per layer
      norm + qkv + rotary + cache write   x -> query, KV cache
      attention, combine                  query, KV cache -> heads
      output projection + residual        heads, x -> x
      norm + gate, up + silu product      x -> inner
      down projection + residual          inner, x -> x
    norm + vocabulary projection          x -> logits
    scan, limit, draw                     logits -> token, ring, position

An embedding model ends in its final norm and `pool`, which writes the embedding in place of logits.

The program `mask` is one dispatch that a runtime puts before these three, for a request with a grammar or with biases.
`verify_N` is a prefill of a few tokens that ends as a decode step does, for each of them.

Norms of query and key heads are one dispatch more, and so are a cache of 8 bits and a norm of what a projection gives;
layer norm has a dispatch of its own, because its mean does not fold into a product.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from tvm.relax.frontend import nn

from ..errors import WispError
from ..kernels import draft, embed, epilogue, mask, pool
from ..kernels.epilogue import HalfRows, PairRows
from ..kernels.shapes import AttentionShape
from ..models.base import ModelConfig, Norm, Role, WeightSpec
from .backend import ACTIVATION, Backend, Operand, Parts, Product
from .layers import RING_SIZE, VERIFY_ROWS, Geometry, KernelTable, Runtime, declare_weights


def _check_described(model: ModelConfig) -> None:
    """Raises WispError for what can be described and has no kernel: it would be another network in silence."""
    for i, layer in enumerate(model.every_layer):
        attention, mlp = layer.attention, layer.mlp
        within = [attention.output_norm, mlp.output_norm, attention.head_norm.norm if attention.head_norm else None]
        missing = {
            "a norm of heads or behind a projection that is no RMS norm": any(n and n.kind != "rms" for n in within),
            f"an MLP without a gate and with {mlp.activation}": not mlp.gated and mlp.activation == "silu",
            "a network without any positions": not model.ropes and not model.learned_positions,
        }
        for what, there in missing.items():
            if there:
                raise WispError(f"layer {i} needs a kernel that there is none for", got=what)


class Graph(nn.Module):
    """The programs of one geometry. Build it, then `export_tvm` with an empty specification a program."""

    def __init__(self, geometry: Geometry, specs: Sequence[WeightSpec], backend: Backend) -> None:
        _check_described(geometry.model)
        self.geometry = geometry
        self.backend = backend
        self.kernels = KernelTable(f"_{geometry.alternative.name}" if geometry.alternative else "")
        self.runtime = Runtime(geometry)
        self.weights = declare_weights(self, specs, geometry.scheme, geometry.cut_bytes)
        for chunk in geometry.prefill_chunks:
            setattr(self, f"prefill_{chunk}", functools.partial(self.prefill, chunk))
        setattr(self, f"verify_{VERIFY_ROWS}", functools.partial(self.verify, VERIFY_ROWS))

    @property
    def parts(self) -> Parts:
        return Parts(self.geometry, self.kernels, self.runtime, self.weights)

    # programs

    def decode(self) -> nn.Tensor:
        """One token: reads the state, leaves logits, and the next token in the state and the ring; or an embedding."""
        x = self.embed_token()
        for layer in range(self.geometry.model.num_hidden_layers):
            x = self.layer(layer, x, 1)
        if self.geometry.model.pooling is not None:
            return self.pool(x, 1)
        self.logits(x)
        return self.sample()

    def prefill(self, chunk: int) -> nn.Tensor:
        """`chunk` tokens, `chunk_length` of them valid: appends their keys and values to the cache, nothing else.

        Where all tokens are pooled it adds them to the embedding.
        """
        x = self.embed_chunk(chunk)
        last = self.geometry.model.num_hidden_layers - 1
        for layer in range(last):
            x = self.layer(layer, x, chunk)
        if self.geometry.model.pooling == "mean":
            return self.pool(self.layer(last, x, chunk), chunk)
        attention = self.geometry.model.layers[last].attention
        return self.query_and_cache(last, chunk, self.normed("input_norm", attention.norm, last, chunk, x))[1]

    def verify(self, rows: int) -> nn.Tensor:
        """What `decode` would draw after each of `rows` tokens: the last of an answer, then a draft's."""
        m = self.geometry.model
        chunk = self.backend.rows_for(self.geometry, rows)
        x = self.embed_chunk(chunk)
        for layer in range(m.num_hidden_layers):
            x = self.layer(layer, x, chunk)
        read = self.normed("final_norm", m.final_norm, None, chunk, x)
        product = self.head(chunk, rows)
        logits = self.backend.logits(self.parts, product, self.gathered(product, read), None)
        r = self.runtime
        words, kernel_type = self.geometry.state_words, self.backend.kernel_type
        name = self.kernels.build("row", draft.copy_row, rows, m.vocab_size, words, kernel_type)
        for _ in range(rows):
            self.kernels.call(name, [logits, r.state, r.logits], [2])
            sampled = self.sample()
        return sampled

    def mask(self) -> nn.Tensor:
        """What a runtime runs between a decode step's logits and its sampler, where not every token may be drawn."""
        r = self.runtime
        name = self.kernels.build("mask", mask.mask_logits, self.geometry.model.vocab_size, self.backend.kernel_type)
        return self.kernels.call(name, [r.logit_mask, r.logit_bias, r.logits], [2])[0]

    def layer(self, layer: int, x: nn.Tensor, chunk: int) -> nn.Tensor:
        """A whole layer: x `[chunk, hidden]` -> the next layer's x."""
        described = self.geometry.model.every_layer[layer]
        attention, mlp = described.attention, described.mlp
        read = self.normed("input_norm", attention.norm, layer, chunk, x)
        x = self.add("attention_output", layer, chunk, self.attended(layer, chunk, read), x)
        x = self.cross(layer, x, chunk)
        if not described.parallel:
            read = self.normed("mlp_norm", mlp.norm, layer, chunk, x)
        return self.add("down", layer, chunk, self.activated(layer, chunk, read), x)

    # steps

    def normed(self, role: Role, norm: Norm | None, layer: int | None, chunk: int, x: nn.Tensor) -> Operand:
        """x through a norm: RMS norm is left to the product that reads it, layer norm has a dispatch."""
        if norm is None:
            return Operand(x)
        g = self.geometry
        if norm.kind == "rms":
            return Operand(x, g.norm(norm), role)
        k = int(x.shape[-1])
        name = self.kernels.build("layer_norm", self.backend.layer_norm, chunk, k, g.norm(norm), g.state_words)
        arguments = [x, self.weights[role, layer], self.weights[f"{role}_bias", layer], self.runtime.state]
        return Operand(self.kernels.call(name, arguments, [((chunk, k), ACTIVATION)])[0])

    def attended(self, layer: int, chunk: int, read: Operand) -> nn.Tensor:
        """What a layer's attention gives its output projection."""
        return self.attend(layer, chunk, *self.query_and_cache(layer, chunk, read))

    def cross(self, layer: int, x: nn.Tensor, chunk: int) -> nn.Tensor:
        """x and what a layer attends to beside its own tokens: nothing, in a network that only reads."""
        return x

    def product(self, product: Product, operand: Operand, extra: Sequence[nn.Tensor], results: Sequence[Any]) -> Any:
        """As of `Backend`."""
        return self.backend.product(self.parts, product, self.gathered(product, operand), extra, results)

    def gathered(self, product: Product, operand: Operand) -> Operand:
        """The operand in the order of the matrix's columns: normed and gathered in dispatches of their own."""
        order: nn.Tensor | None = self.weights[product.role, product.layer].order
        if order is None:
            return operand
        chunk, k, x = product.chunk, int(operand.x.shape[-1]), self.normed_rows(operand, product.layer, product.chunk)
        name = self.kernels.build("gather", embed.gather, k, chunk, self.backend.kernel_type)
        return Operand(self.kernels.call(name, [x, order], [((chunk, k), ACTIVATION)])[0])

    def normed_rows(self, operand: Operand, layer: int | None, chunk: int) -> nn.Tensor:
        """What an operand stands for, its norm in a dispatch of its own."""
        if operand.norm is None:
            return operand.x
        k = int(operand.x.shape[-1])
        name = self.kernels.build("rms_norm", self.backend.rms_norm, chunk, k, operand.norm, self.geometry.state_words)
        arguments = [operand.x, *self.parts.gamma(operand, layer), self.runtime.state]
        return self.kernels.call(name, arguments, [((chunk, k), ACTIVATION)])[0]

    def add(self, role: Role, layer: int, chunk: int, x: nn.Tensor, residual: nn.Tensor) -> nn.Tensor:
        """residual + the projection of x, through the norm of what a projection gives where the network has one."""
        described = self.geometry.model.every_layer[layer]
        rows, _ = self.weights[role, layer].spec.shape
        norm = (described.attention if role == "attention_output" else described.mlp).output_norm
        result = ((chunk, rows), ACTIVATION)
        if norm is None:
            declare: epilogue.Declare = epilogue.StoreResidual(chunk, rows, described.residual_scale)
            project = Product("project", role, layer, chunk, declare, rows)
            return self.product(project, Operand(x), [residual], [result])[0]
        project = Product("project", role, layer, chunk, epilogue.Store(chunk, rows), rows)
        (projected,) = self.product(project, Operand(x), [], [result])
        g = self.geometry
        values = (chunk, rows, g.norm(norm), g.state_words, described.residual_scale)
        name = self.kernels.build("norm_add", self.backend.rms_norm, *values)
        gamma = self.weights["attention_output_norm" if role == "attention_output" else "mlp_output_norm", layer]
        return self.kernels.call(name, [projected, gamma, self.runtime.state, residual], [result])[0]

    def activated(self, layer: int, chunk: int, read: Operand) -> nn.Tensor:
        """What the MLP's down projection reads, `[chunk, intermediate]`; gate and up are the halves of one matrix."""
        mlp, inner = self.geometry.model.every_layer[layer].mlp, self.geometry.model.intermediate_size
        result = ((chunk, inner), ACTIVATION)
        if mlp.gated:
            declare: epilogue.Declare = epilogue.StoreGated(chunk, inner, mlp.activation)
            product = Product("gate_up", "gate_up", layer, chunk, declare, inner, HalfRows(inner))
        else:
            declare = epilogue.StoreGelu(chunk, inner, exact=mlp.activation == "gelu")
            product = Product("up", "up", layer, chunk, declare, inner)
        return self.product(product, read, [], [result])[0]

    def query_and_cache(self, layer: int, chunk: int, read: Operand) -> tuple[nn.Tensor, nn.Tensor]:
        """Query `[chunk, heads x size]`, and the layer's cache with this chunk's keys and values in it.

        In decode one dispatch does it, but for norms of heads and caches of 8 bits, which need whole heads.
        """
        g, r, heads, cache = self.geometry, self.runtime, self.geometry.heads(layer), self.geometry.cache_of(layer)
        head_norm, part = g.model.every_layer[layer].attention.head_norm, g.rope_part(layer)
        query = ((chunk, heads.query * heads.size), ACTIVATION)
        if chunk == 1 and head_norm is None and not cache.bytes:
            declare: epilogue.Declare = epilogue.StoreRotated(cache, g.state_words, part.first if part else 0)
            product = Product("qkv", "qkv", layer, chunk, declare, heads.rows // 2, PairRows(heads))
            made = self.product(product, read, [r.state, r.cache(layer)], [query, 1])
            return made[0], made[1]
        product = Product("qkv", "qkv", layer, chunk, epilogue.Store(chunk, heads.rows), heads.rows)
        (qkv,) = self.product(product, read, [], [((chunk, heads.rows), ACTIVATION)])
        gammas: list[nn.Tensor] = []
        if head_norm is not None or cache.bytes:
            whole, norm = False, None
            if head_norm is not None:
                whole, norm = head_norm.over == "projection", g.norm(head_norm.norm)
                gammas = [self.weights["query_norm", layer], self.weights["key_norm", layer]]
            kind = "rotate" if norm is None else "normalize_rotate"
            values = (cache, chunk, norm, g.state_words, part, whole)
            name = self.kernels.build(kind, self.backend.normalize_rotate, *values)
        else:
            make = (embed.rotate_chunk, cache, chunk, g.state_words, self.backend.kernel_type, part)
            name = self.kernels.build("rotate", *make)
        table = [r.rope] if part is not None else []
        arguments = [qkv, *gammas, r.state, *table, r.cache(layer)]
        made = self.kernels.call(name, arguments, [query, len(arguments) - 1])
        return made[0], made[1]

    def attend(self, layer: int, chunk: int, query: nn.Tensor, cache: nn.Tensor) -> nn.Tensor:
        """Attention `[chunk, heads x size]`; in decode split over workgroups when the context is long."""
        g, heads, attention = (
            self.geometry,
            self.geometry.heads(layer),
            self.geometry.model.every_layer[layer].attention,
        )
        splits = self.backend.splits(g) if chunk == 1 else 1
        cached = g.cache_of(layer)
        shape = AttentionShape(cached, chunk, splits, attention.window, attention.scale, attention.soft_cap)
        result = ((chunk, heads.query * heads.size), ACTIVATION)
        partial = ((heads.query * splits, heads.size + 4), "float32")
        name = self.backend.attention(self.parts, shape)
        (out,) = self.kernels.call(name, [query, cache, self.runtime.state], [result if splits == 1 else partial])
        if splits == 1:
            return out
        return self.kernels.call(self.backend.combine(self.parts, shape), [out], [result])[0]

    def embed_token(self) -> nn.Tensor:
        """x `[1, hidden]` of the state's token; cos/sin of its position go to the state."""
        g, r = self.geometry, self.runtime
        m = g.model
        x: nn.Tensor | None = None
        matrix = self.weights["embedding", None]
        table = embed.Table(g.rope_pairs, g.context)
        for rows, parameters in matrix.parts:
            part = embed.Vocabulary(matrix.storage, rows, m.hidden_size, m.embedding_scale)
            make = (embed.embed_token, part, table, g.state_words, self.backend.kernel_type)
            name = self.kernels.build("embed", *make)
            if x is None:
                arguments = [*parameters, *([r.rope] if g.rope_pairs else []), r.state]
                results: list[Any] = [len(arguments) - 1, ((1, m.hidden_size), ACTIVATION)]
                _, x = self.kernels.call(name, arguments, results)
            else:
                arguments = [*parameters, r.state, x]
                (x,) = self.kernels.call(name, arguments, [len(arguments) - 1])
        assert x is not None
        return x

    def embed_chunk(self, chunk: int) -> nn.Tensor:
        """x `[chunk, hidden]` of the input ids."""
        m = self.geometry.model
        x: nn.Tensor | None = None
        matrix = self.weights["embedding", None]
        for rows, parameters in matrix.parts:
            part = embed.Vocabulary(matrix.storage, rows, m.hidden_size, m.embedding_scale)
            name = self.kernels.build("embed_chunk", embed.embed_chunk, part, chunk, self.backend.kernel_type)
            arguments = [self.runtime.input_ids, *parameters]
            if x is None:
                (x,) = self.kernels.call(name, arguments, [((chunk, m.hidden_size), ACTIVATION)])
            else:
                (x,) = self.kernels.call(name, [*arguments, x], [len(arguments)])
        assert x is not None
        return x

    def logits(self, x: nn.Tensor) -> None:
        """The one row x through the final norm and the vocabulary projection, into the logits buffer."""
        read = self.normed("final_norm", self.geometry.model.final_norm, None, 1, x)
        product = self.head(1, 1)
        self.backend.logits(self.parts, product, self.gathered(product, read), self.runtime.logits)

    def head(self, chunk: int, rows: int) -> Product:
        """The vocabulary projection of a chunk of which at most `rows` are valid."""
        m = self.geometry.model
        role: Role = "embedding" if m.tie_word_embeddings else "lm_head"
        declare = epilogue.Store(rows, m.vocab_size, 0, m.logits_scale, m.logits_soft_cap)
        return Product("lm_head", role, None, chunk, declare, m.vocab_size, biased_as="lm_head")

    def pool(self, x: nn.Tensor, chunk: int) -> nn.Tensor:
        """x `[chunk, hidden]` through the final norm, into the embedding buffer."""
        g, r = self.geometry, self.runtime
        read = self.normed("final_norm", g.model.final_norm, None, chunk, x)
        rows, hidden = self.normed_rows(read, None, chunk), g.model.hidden_size
        values = (chunk, hidden, g.model.pooling == "mean", g.state_words, self.backend.kernel_type)
        name = self.kernels.build("pool", pool.pool, *values)
        return self.kernels.call(name, [rows, r.state, r.embedding], [2])[0]

    def sample(self) -> nn.Tensor:
        """The next token, from the logits, into state and ring."""
        g, r = self.geometry, self.runtime
        vocab, words = g.model.vocab_size, g.state_words
        sampler = self.backend.sampler
        name = self.kernels.build("scan", sampler.scan, vocab, words)
        found = self.kernels.call(name, [r.logits, r.token_counts, r.state], sampler.scanned(vocab))
        name = self.kernels.build("limit", sampler.limit, vocab, words)
        arguments = [*(found[i] for i in sampler.limit_reads), r.state]
        (cut,) = self.kernels.call(name, arguments, [((1,), "uint32")])
        name = self.kernels.build("draw", sampler.draw, vocab, RING_SIZE, words)
        arguments = [*(found[i] for i in sampler.draw_reads), cut, r.state, r.token_ring, r.token_counts]
        written = len(arguments) - 3
        return self.kernels.call(name, arguments, [written, written + 1, written + 2])[0]
