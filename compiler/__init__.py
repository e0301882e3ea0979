"""Compiles a Llama or Phi checkpoint into a static web artifact; `build.py` is the whole story."""

__version__ = "0.1.0"
