"""A network that hears as programs: `encode` writes what a decoder attends to, `prefill_N` and `decode` read it.

Knows the encoder and cross-attention; all else is `graph`'s. A decode step ends in logits: who transcribes chooses the
token by rules of its own.

    encode
      even frames, odd frames             mel -> unfolded -> conv1 + GELU
      conv2 + GELU, positions             both -> x
      layers                              x -> x, each state attending to all
      norm                                x -> encoder states
      per layer of the decoder            encoder states -> keys and values of the cross-attention

A layer of the decoder has between attention and MLP: norm, query, attention, output projection + residual.
"""

from __future__ import annotations

from tvm.relax.frontend import nn

from ..kernels import embed, epilogue, hearing
from ..kernels.shapes import AttentionShape
from ..models.base import Encoder, Role
from .backend import ACTIVATION, Operand, Product
from .graph import Graph


class HearingGraph(Graph):
    """The programs of a network with an encoder."""

    @property
    def encoder(self) -> Encoder:
        encoder = self.geometry.model.encoder
        assert encoder is not None
        return encoder

    # programs

    def decode(self) -> nn.Tensor:
        """One token: reads the state, leaves logits."""
        x = self.embed_token()
        for layer in range(self.geometry.model.num_hidden_layers):
            x = self.layer(layer, x, 1)
        self.logits(x)
        return x

    def encode(self) -> nn.Tensor:
        """A window of log-mel: its states, and the keys and values of every cross-attention. All states are valid."""
        model, encoder, r = self.geometry.model, self.encoder, self.runtime
        steps, hidden = encoder.positions, model.hidden_size
        even, odd = (self._first_convolution(parity) for parity in (0, 1))
        name = self.kernels.build("unfold_pairs", hearing.unfold_pairs, hidden, steps, self.backend.kernel_type)
        (unfolded,) = self.kernels.call(name, [even, odd], [((steps, hidden * hearing.TAPS), ACTIVATION)])
        x = self._positioned("encoder_positions", encoder.positions, self._convolved("conv2", unfolded))
        for i in range(len(encoder.layers)):
            x = self.layer(model.num_hidden_layers + i, x, steps)
        norm = self.geometry.norm(encoder.final_norm)
        values = (steps, hidden, norm, self.geometry.state_words)
        name = self.kernels.build("layer_norm", self.backend.layer_norm, *values)
        gamma, beta = self.weights["encoder_norm", None], self.weights["encoder_norm_bias", None]
        (states,) = self.kernels.call(name, [x, gamma, beta, r.state, r.encoder_states], [4])
        for layer in range(model.num_hidden_layers):
            rows = 2 * hidden
            declare = epilogue.Store(steps, rows)
            product = Product("cross_key_value", "cross_key_value", layer, steps, declare, rows)
            self.product(product, Operand(states), [r.heard(layer)], [0])
        return states

    # steps

    def cross(self, layer: int, x: nn.Tensor, chunk: int) -> nn.Tensor:
        """x and what it attends to of what was heard; nothing in a layer without."""
        cross = self.geometry.model.every_layer[layer].cross
        if cross is None:
            return x
        g, hidden = self.geometry, self.geometry.model.hidden_size
        result = ((chunk, hidden), ACTIVATION)
        read = self.normed("cross_norm", cross.norm, layer, chunk, x)
        product = Product("project", "cross_query", layer, chunk, epilogue.Store(chunk, hidden), hidden)
        (query,) = self.product(product, read, [], [result])
        name = self.backend.attention(self.parts, AttentionShape(g.heard, chunk, 1, causal=False))
        (out,) = self.kernels.call(name, [query, self.runtime.heard(layer), self.runtime.state], [result])
        product = Product("project", "cross_output", layer, chunk, epilogue.StoreResidual(chunk, hidden), hidden)
        return self.product(product, Operand(out), [x], [result])[0]

    def attended(self, layer: int, chunk: int, read: Operand) -> nn.Tensor:
        """Attention of an encoder's layer: keys and values of the window are forgotten with it."""
        if self.geometry.model.every_layer[layer].attention.causal:
            return super().attended(layer, chunk, read)
        g, heads, cache = self.geometry, self.geometry.heads(layer), self.geometry.heard
        product = Product("qkv", "qkv", layer, chunk, epilogue.Store(chunk, heads.rows), heads.rows)
        (qkv,) = self.product(product, read, [], [((chunk, heads.rows), ACTIVATION)])
        make = (embed.rotate_chunk, cache, chunk, g.state_words, self.backend.kernel_type, None)
        name = self.kernels.build("rotate", *make)
        result = ((chunk, heads.query * heads.size), ACTIVATION)
        kept, query = self.kernels.call(
            name, [qkv, self.runtime.state], [((chunk, cache.row_words), "float32"), result]
        )
        name = self.backend.attention(self.parts, AttentionShape(cache, chunk, 1, causal=False))
        return self.kernels.call(name, [query, kept, self.runtime.state], [result])[0]

    def embed_token(self) -> nn.Tensor:
        """x `[1, hidden]` of the state's token at the state's position."""
        return self._positioned("positions", self.geometry.model.max_position_embeddings, super().embed_token())

    def embed_chunk(self, chunk: int) -> nn.Tensor:
        """x `[chunk, hidden]` of the input ids from the state's position on."""
        return self._positioned("positions", self.geometry.model.max_position_embeddings, super().embed_chunk(chunk))

    def _positioned(self, role: Role, count: int, x: nn.Tensor) -> nn.Tensor:
        """x plus learned positions."""
        g, (rows, columns) = self.geometry, (int(extent) for extent in x.shape)
        values = ((rows, columns, count), g.f16_vectors, g.state_words, self.backend.kernel_type)
        name = self.kernels.build("add_positions", hearing.add_positions, *values)
        arguments = [x, self.weights[role, None], self.runtime.state]
        return self.kernels.call(name, arguments, [((rows, columns), ACTIVATION)])[0]

    def _first_convolution(self, parity: int) -> nn.Tensor:
        """The even or the odd frames of the first convolution."""
        bands, steps = self.encoder.mel_bands, self.encoder.positions
        name = self.kernels.build("unfold", hearing.unfold_mel, bands, steps, parity, self.backend.kernel_type)
        (unfolded,) = self.kernels.call(name, [self.runtime.mel], [((steps, bands * hearing.TAPS), ACTIVATION)])
        return self._convolved("conv1", unfolded)

    def _convolved(self, role: Role, unfolded: nn.Tensor) -> nn.Tensor:
        """A convolution of what is laid out for it, through GELU."""
        steps, hidden = self.encoder.positions, self.geometry.model.hidden_size
        declare = epilogue.StoreGelu(steps, hidden, exact=True)
        product = Product("convolve", role, None, steps, declare, hidden)
        return self.product(product, Operand(unfolded), [], [((steps, hidden), ACTIVATION)])[0]
