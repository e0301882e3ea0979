"""Kernels for WebAssembly: SIMD of 128 bits, one function a kernel, items instead of workgroups."""
