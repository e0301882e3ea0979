"""Kernels as functions of frozen values: what all of them are built with here, those of each backend in its folder."""
