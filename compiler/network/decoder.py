"""The network that Llama, Phi-3, Mistral and Qwen share, as a graph: RMS norm, rotary attention, SwiGLU.

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

from tvm.relax.frontend import nn

from compiler.kernels import epilogue
from compiler.network.graph import ACTIVATION, Graph


class Decoder(Graph):
    """Attention, then MLP, each behind its norm and added to the residual."""

    def layer(self, layer: int, x: nn.Tensor, chunk: int) -> nn.Tensor:
        query, cache = self.query_and_cache(layer, chunk, x, "input_norm")
        x = self.project("attention_output", layer, chunk, self.attend(chunk, query, cache), x)
        return self.project("down", layer, chunk, self._gated(layer, chunk, x), x)

    def cache_layer(self, layer: int, x: nn.Tensor, chunk: int) -> nn.Tensor:
        return self.query_and_cache(layer, chunk, x, "input_norm")[1]

    def _gated(self, layer: int, chunk: int, x: nn.Tensor) -> nn.Tensor:
        """silu(gate) * up, `[chunk, intermediate]`; gate and up are the halves of one matrix."""
        inner = self.geometry.model.intermediate_size
        declare, result = epilogue.StoreGated(chunk, inner), ((chunk, inner), ACTIVATION)
        rows = epilogue.HalfRows(inner)
        made = self.product(
            "gate_up", "gate_up", layer, chunk, x, declare, [], [result], inner, rows, "post_attention_norm"
        )
        return made[0]
