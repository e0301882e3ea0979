"""Replays a plan on this machine, through wgpu or in wasmtime."""
