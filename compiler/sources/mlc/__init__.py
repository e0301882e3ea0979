"""Weights in MLC's published format as a source, taken bit for bit."""
