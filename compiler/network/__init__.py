"""A model's layers as a graph of kernels, and the same layers in plain numpy."""
