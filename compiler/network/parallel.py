"""The network of Phi-1, 1.5 and 2, as a graph: one layer norm, then attention and a GELU MLP side by side.

A decode step is 7 dispatches a layer (6 when one split holds the context) and 6 around them: layer norm keeps a
dispatch of its own, because its mean does not fold into a product.
"""

from __future__ import annotations

from tvm.relax.frontend import nn

from compiler.kernels import epilogue
from compiler.network.graph import ACTIVATION, Graph


class ParallelDecoder(Graph):
    """x + attention(norm(x)) + mlp(norm(x))."""

    def layer(self, layer: int, x: nn.Tensor, chunk: int) -> nn.Tensor:
        normed = self.layer_norm("input_norm", layer, chunk, x)
        query, cache = self.query_and_cache(layer, chunk, normed)
        x = self.project("attention_output", layer, chunk, self.attend(chunk, query, cache), x)
        inner = self.geometry.model.intermediate_size
        declare, result = epilogue.StoreGelu(chunk, inner), ((chunk, inner), ACTIVATION)
        (hidden,) = self.product("up", "up", layer, chunk, normed, declare, [], [result], inner)
        return self.project("down", layer, chunk, hidden, x)

    def cache_layer(self, layer: int, x: nn.Tensor, chunk: int) -> nn.Tensor:
        return self.query_and_cache(layer, chunk, self.layer_norm("input_norm", layer, chunk, x))[1]

    def logits(self, x: nn.Tensor) -> None:
        self.vocabulary_product(self.layer_norm("final_norm", None, 1, x), None)
