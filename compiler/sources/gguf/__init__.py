"""GGUF as a source: one file holds the network's numbers, its weights, its tokenizer and its chat template.

`reader` proves the file's header, `architecture` translates numbers and names into Hugging Face's, `tokenizer` rebuilds
tokenizer.json, and `checkpoint` puts them together as a `Checkpoint` like any other. Tensor types and the arithmetic of
their blocks come from the `gguf` package.
"""

from .checkpoint import GgufCheckpoint

__all__ = ["GgufCheckpoint"]
