"""Kernels for WebGPU: workgroups, their memory and subgroups."""
