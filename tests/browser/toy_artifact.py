"""A hand-made artifact whose "model" is a few lines of WGSL, or of WebAssembly, and the same model in Python.

It tests the engine alone: every next token depends on every row of the KV cache, on a weight that is split over
two shards and on a constant, so a wrong position, a stale row or a misplaced byte changes the answer.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import wasmtime
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

VOCAB, CONTEXT, RING, CHUNKS = 320, 256, 32, (16, 4)
BOS, EOS = 0, 1
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CORPUS = ["the quick brown fox jumps over the lazy dog", "naïve café 東京 🙂 🙃", "<|user|> <|assistant|> <|system|>"]

KERNELS = """
@group(0) @binding(0) var<storage, read> ids: array<u32>;
@group(0) @binding(1) var<storage, read> state_in: array<u32>;
@group(0) @binding(2) var<storage, read_write> rows: array<u32>;

// Rows of a chunk that are no padding.
@compute @workgroup_size(4) fn gather(@builtin(global_invocation_id) at: vec3<u32>) {
  if (at.x < state_in[2]) { rows[at.x] = ids[at.x]; } else { rows[at.x] = 4294967295u; }
}

@group(0) @binding(0) var<storage, read> gathered: array<u32>;
@group(0) @binding(1) var<storage, read> state_at: array<u32>;
@group(0) @binding(2) var<storage, read_write> kv: array<u32>;

@compute @workgroup_size(4) fn append(@builtin(global_invocation_id) at: vec3<u32>) {
  if (gathered[at.x] != 4294967295u) { kv[state_at[0] + at.x] = gathered[at.x]; }
}

@group(0) @binding(0) var<storage, read> weight_low: array<u32>;
@group(0) @binding(1) var<storage, read> weight_high: array<u32>;
@group(0) @binding(2) var<storage, read> constant: array<u32>;
@group(0) @binding(3) var<storage, read_write> state: array<u32>;
@group(0) @binding(4) var<storage, read_write> cache: array<u32>;
@group(0) @binding(5) var<storage, read_write> logits: array<f32>;
@group(0) @binding(6) var<storage, read_write> ring: array<u32>;
@group(0) @binding(7) var<storage, read_write> counts: array<u32>;

@compute @workgroup_size(1) fn decode() {
  let position = state[0];
  cache[position] = state[1];
  var h = 0u;
  for (var i = 0u; i <= position; i++) { h = h * 31u + cache[i] + constant[i]; }
  let row = h % VOCABu;
  var w = 0u;
  if (row < SPLITu) { w = weight_low[row]; } else { w = weight_high[row - SPLITu]; }
  var next = (h / 7u + w) % VOCABu;
  for (var v = 0u; v < VOCABu; v++) { logits[v] = -f32((v + VOCABu - next) % VOCABu); }
  if (bitcast<f32>(state[4]) > 0.0) { next = (next + (state[3] % 1000u) * (position + 1u)) % VOCABu; }
  if (bitcast<f32>(state[8]) != 1.0) { while (counts[next] != 0u) { next = (next + 1u) % VOCABu; } }
  state[1] = next;
  ring[(position + 1u) % RINGu] = next;
  counts[next] += 1u;
  state[0] = position + 1u;
}
"""

# The same for the CPU. Items are rows of a chunk; `decode` has one.
WASM_KERNELS = """
(module
  (import "env" "memory" (memory 1 65536))
  (global (export "__heap_base") i32 (i32.const 1024))
  (global (export "__stack_pointer") (mut i32) (i32.const 0))
  (func $at (param $base i32) (param $i i32) (result i32)
    (i32.add (local.get $base) (i32.shl (local.get $i) (i32.const 2))))
  (func $word (param $base i32) (param $i i32) (result i32) (i32.load (call $at (local.get $base) (local.get $i))))
  (func (export "gather") (param $ids i32) (param $state i32) (param $rows i32) (param $i i32) (param $end i32)
    (block $done (loop $items
      (br_if $done (i32.ge_u (local.get $i) (local.get $end)))
      (i32.store (call $at (local.get $rows) (local.get $i))
        (select (call $word (local.get $ids) (local.get $i)) (i32.const -1)
          (i32.lt_u (local.get $i) (call $word (local.get $state) (i32.const 2)))))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br $items))))
  (func (export "append") (param $rows i32) (param $state i32) (param $kv i32) (param $i i32) (param $end i32)
    (block $done (loop $items
      (br_if $done (i32.ge_u (local.get $i) (local.get $end)))
      (if (i32.ne (call $word (local.get $rows) (local.get $i)) (i32.const -1)) (then
        (i32.store (call $at (local.get $kv) (i32.add (call $word (local.get $state) (i32.const 0)) (local.get $i)))
          (call $word (local.get $rows) (local.get $i)))))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br $items))))
  (func (export "decode")
    (param $low i32) (param $high i32) (param $constant i32) (param $state i32) (param $cache i32) (param $logits i32)
    (param $ring i32) (param $counts i32) (param $begin i32) (param $end i32)
    (local $position i32) (local $i i32) (local $h i32) (local $next i32) (local $count i32)
    (local.set $position (call $word (local.get $state) (i32.const 0)))
    (i32.store (call $at (local.get $cache) (local.get $position)) (call $word (local.get $state) (i32.const 1)))
    (loop $rows
      (local.set $h (i32.add (i32.mul (local.get $h) (i32.const 31))
        (i32.add (call $word (local.get $cache) (local.get $i)) (call $word (local.get $constant) (local.get $i)))))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $rows (i32.le_u (local.get $i) (local.get $position))))
    (local.set $i (i32.rem_u (local.get $h) (i32.const VOCAB)))
    (local.set $next (i32.rem_u
      (i32.add (i32.div_u (local.get $h) (i32.const 7))
        (if (result i32) (i32.lt_u (local.get $i) (i32.const SPLIT))
          (then (call $word (local.get $low) (local.get $i)))
          (else (call $word (local.get $high) (i32.sub (local.get $i) (i32.const SPLIT))))))
      (i32.const VOCAB)))
    (local.set $i (i32.const 0))
    (loop $vocabulary
      (f32.store (call $at (local.get $logits) (local.get $i)) (f32.neg (f32.convert_i32_u
        (i32.rem_u (i32.sub (i32.add (local.get $i) (i32.const VOCAB)) (local.get $next)) (i32.const VOCAB)))))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $vocabulary (i32.lt_u (local.get $i) (i32.const VOCAB))))
    (if (f32.gt (f32.load (call $at (local.get $state) (i32.const 4))) (f32.const 0)) (then
      (local.set $next (i32.rem_u
        (i32.add (local.get $next) (i32.mul
          (i32.rem_u (call $word (local.get $state) (i32.const 3)) (i32.const 1000))
          (i32.add (local.get $position) (i32.const 1))))
        (i32.const VOCAB)))))
    (if (f32.ne (f32.load (call $at (local.get $state) (i32.const 8))) (f32.const 1)) (then
      (block $free (loop $taken
        (br_if $free (i32.eqz (call $word (local.get $counts) (local.get $next))))
        (local.set $next (i32.rem_u (i32.add (local.get $next) (i32.const 1)) (i32.const VOCAB)))
        (br $taken)))))
    (local.set $position (i32.add (local.get $position) (i32.const 1)))
    (i32.store (local.get $state) (local.get $position))
    (i32.store (call $at (local.get $state) (i32.const 1)) (local.get $next))
    (i32.store (call $at (local.get $ring) (i32.rem_u (local.get $position) (i32.const RING))) (local.get $next))
    (local.set $count (call $at (local.get $counts) (local.get $next)))
    (i32.store (local.get $count) (i32.add (i32.load (local.get $count)) (i32.const 1)))))
"""
SPLIT = 192  # the plan's two buffers of the weight meet at this row, its two shards at row 128


@dataclass(frozen=True)
class Toy:
    """What the kernels compute, in Python."""

    weight: np.ndarray  # (VOCAB,) uint32
    constant: np.ndarray  # (CONTEXT,) uint32

    def next(self, ids: list[int]) -> int:
        h = 0
        for i, token in enumerate(ids):
            h = (h * 31 + token + int(self.constant[i])) % 2**32
        return (h // 7 + int(self.weight[h % VOCAB])) % VOCAB

    def generate(
        self, ids: list[int], count: int, *, stop: tuple[int, ...] = (), seed: int = 0, distinct: bool = False
    ) -> list[int]:
        """`seed` stands for sampling, `distinct` for a repetition penalty. Without the stop token."""
        out: list[int] = []
        while len(out) < count:
            token = (self.next(ids + out) + (seed % 1000) * (len(ids) + len(out))) % VOCAB
            while distinct and token in ids + out:
                token = (token + 1) % VOCAB
            if token in stop:
                break
            out.append(token)
        return out

    def logits(self, ids: list[int]) -> list[float]:
        best = self.next(ids)
        return [-float((v + VOCAB - best) % VOCAB) for v in range(VOCAB)]

    def smoke(self) -> dict[str, Any]:
        """What `wisp compile` would write."""
        ids = [40, 120, 200, 280]
        logits = self.logits(ids)
        ranked = sorted(range(VOCAB), key=lambda token: -logits[token])

        def pairs(tokens: list[int]) -> list[list[float]]:
            return [[token, logits[token]] for token in tokens]

        scale = max(map(abs, logits))
        return {
            "ids": ids,
            "top": pairs(ranked[:8]),
            "others": pairs(ranked[20::40]),
            "scale": scale,
            "tolerance": 0.01,
        }


def toy() -> Toy:
    rng = np.random.default_rng(7)
    return Toy(rng.integers(0, 2**16, VOCAB, dtype=np.uint32), rng.integers(0, 2**16, CONTEXT, dtype=np.uint32))


def tokenizer() -> Tokenizer:
    """Byte-level BPE with every byte, so that any sequence of ids is text, whole characters or not."""
    result = Tokenizer(models.BPE())
    result.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    result.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        min_frequency=1,
        show_progress=False,
        special_tokens=[AddedToken(text, special=True) for text in special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    result.train_from_iterator(CORPUS, trainer)
    assert result.get_vocab_size() <= VOCAB
    return result


def write(
    directory: Path,
    model: Toy,
    *,
    source: str = KERNELS,
    cpu: bool = False,
    scratch: int = 64,
    smoke: bool = True,
    tokenizer_json: str | None = None,
    context: int = CONTEXT,
    padding: int = 0,
    alternatives: dict[str, tuple[dict[str, Any], str]] | None = None,
    **changes: Any,
) -> None:
    """Writes the artifact with these kernels. `changes` replace keys of model.json.

    Without `smoke` it is as earlier compilers wrote it. `cpu` adds the variant of the CPU, whose plan has a scratch
    buffer of `scratch` bytes. The KV cache is for `context` positions, of which CONTEXT can be used. Each shard begins
    with `padding` bytes that no plan uses. `alternatives` are those of the GPU's plan, by name: what is said of one
    there, and the WGSL of its kernels.
    """
    low, high = model.weight[:128], model.weight[128:]
    unused = [np.random.default_rng(i).bytes(padding) for i in range(2)]
    name = "model.embed_tokens.weight"
    files = {
        "params_shard_0.bin": unused[0] + low.tobytes(),
        "params_shard_1.bin": unused[1] + high.tobytes(),
        "constants.bin": b"\0" * 16 + model.constant.tobytes(),
        "tokenizer.json": (tokenizer_json or tokenizer().to_str()).encode(),
        "tokenizer_config.json": json.dumps({"bos_token": "<s>", "eos_token": "</s>"}).encode(),
        "webgpu-f32/kernels.wgsl": with_numbers(source).encode(),
    }
    records = [
        {
            "dataPath": f"params_shard_{i}.bin",
            "format": "raw-shard",
            "nbytes": padding + part.nbytes,
            "md5sum": "",
            "records": [
                *unused_record(i, padding),
                {
                    "name": name,
                    "shape": [len(part)],
                    "dtype": "uint32",
                    "format": "raw",
                    "nbytes": part.nbytes,
                    "byteOffset": padding,
                    "rowOffset": offset,
                    "rows": VOCAB,
                },
            ],
        }
        for i, (part, offset) in enumerate([(low, 0), (high, 128)])
    ]
    files["tensor-cache.json"] = json.dumps({"metadata": {"ParamBytes": 4 * VOCAB}, "records": records}).encode()
    offered = []
    for alternative, (description, its_source) in (alternatives or {}).items():
        file = f"webgpu-f32/{alternative}.wgsl"
        files[file] = with_numbers(its_source).encode()
        common = {"name": alternative, "kernels_file": file, "language_features": [], "tolerance": 0.001}
        offered.append({**common, **description})
    gpu_plan = {**plan(name, context), "alternatives": offered} if offered else plan(name, context)
    files["webgpu-f32/plan.json"] = json.dumps(gpu_plan).encode()
    if cpu:
        files["wasm-simd/plan.json"] = json.dumps(cpu_plan(plan(name, context), scratch)).encode()
        module = bytes(wasmtime.wat2wasm(with_numbers(WASM_KERNELS, suffix="")))
        files["wasm-simd/kernels.wasm"] = module
        files["wasm-simd/kernels-relaxed.wasm"] = module + b"\0\x08\x07relaxed"  # a custom section
    f16 = {**variant("webgpu-f16"), "required_features": ["shader-f16"], "activation_dtype": "float16"}
    manifest = {
        "format": "wisp",
        "format_version": 1,
        "id": directory.name,
        "source": {"kind": "directory", "id": "toy", "revision": None},
        "architecture": {
            "model_type": "llama",
            "hidden_size": 1,
            "intermediate_size": 1,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "num_key_value_heads": 1,
            "head_dim": 1,
            "vocab_size": VOCAB,
            "tie_word_embeddings": True,
        },
        "parameters": VOCAB,
        "quantization": "q0f32",
        "weight_bytes": 4 * VOCAB + 2 * padding,
        "context": context,
        "bos_token_id": BOS,
        "stop_token_ids": [EOS],
        "generation": {"temperature": 0, "top_k": 0, "top_p": 1, "min_p": 0, "repetition_penalty": 1},
        "chat_template": TEMPLATE,
        "tokenizer": ["tokenizer.json", "tokenizer_config.json"],
        "weights": "tensor-cache.json",
        **({"smoke": model.smoke()} if smoke else {}),
        "variants": [f16, variant("webgpu-f32"), *([cpu_variant()] if cpu else [])],
        "files": {
            path: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for path, content in files.items()
        },
        **changes,
    }
    files["model.json"] = json.dumps(manifest).encode()
    for path, content in files.items():
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def with_numbers(source: str, suffix: str = "u") -> str:
    for name, value in {"VOCAB": VOCAB, "SPLIT": SPLIT, "RING": RING}.items():
        source = source.replace(name + suffix, f"{value}{suffix}")
    return source


def variant(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "backend": "webgpu",
        "activation_dtype": "float32",
        "required_features": [],
        "required_limits": {},
        "plan": "webgpu-f32/plan.json",
        "kernels": "webgpu-f32/kernels.wgsl",
        "kv_bytes_per_token": 4,
        "activation_bytes": 64,
        "dispatches_per_token": 1,
        "prefill_dispatches": {str(chunk): 2 for chunk in CHUNKS},
    }


def cpu_variant() -> dict[str, Any]:
    return {
        **variant("wasm-simd"),
        "backend": "wasm",
        "required_features": ["simd"],
        "plan": "wasm-simd/plan.json",
        "kernels": "wasm-simd/kernels.wasm",
        "kernels_relaxed": "wasm-simd/kernels-relaxed.wasm",
    }


def cpu_plan(gpu: dict[str, Any], scratch: int) -> dict[str, Any]:
    """The same buffers and programs, with items in place of workgroups of four."""
    kernels = [{**kernel, "workgroup_size": [1, 1, 1]} for kernel in gpu["kernels"]]
    buffers = [{**b, "bytes": max(b["bytes"], scratch)} if b["kind"] == "scratch" else b for b in gpu["buffers"]]
    items = {"decode": 1} | {f"prefill_{chunk}": chunk for chunk in CHUNKS}
    programs = {
        name: [{**dispatch, "grid": [items[name], 1, 1]} for dispatch in program]
        for name, program in gpu["programs"].items()
    }
    return {**gpu, "variant": "wasm-simd", "kernels": kernels, "buffers": buffers, "programs": programs}


def unused_record(shard: int, nbytes: int) -> list[dict[str, Any]]:
    if nbytes == 0:
        return []
    record = {"name": f"unused.{shard}", "shape": [nbytes // 4], "dtype": "uint32", "format": "raw"}
    return [{**record, "nbytes": nbytes, "byteOffset": 0}]


def plan(weight: str, context: int) -> dict[str, Any]:
    def rows(start: int, stop: int) -> dict[str, Any]:
        return {
            "kind": "weight",
            "name": weight,
            "dtype": "uint32",
            "shape": [VOCAB],
            "rows": [start, stop],
            "bytes": 4 * (stop - start),
        }

    def prefill(chunk: int) -> list[dict[str, Any]]:
        grid = [chunk // 4, 1, 1]
        return [{"kernel": 0, "bind": [5, 4, 9], "grid": grid}, {"kernel": 1, "bind": [9, 4, 3], "grid": grid}]

    def kernel(entry: str, size: int, bindings: list[str]) -> dict[str, Any]:
        return {"entry": entry, "workgroup_size": [size, 1, 1], "workgroup_bytes": 0, "bindings": bindings}

    return {
        "format": "wisp-plan",
        "format_version": 1,
        "variant": "webgpu-f32",
        "activation_dtype": "float32",
        "context": context,
        "vocab_size": VOCAB,
        "ring_size": RING,
        "prefill_chunks": list(CHUNKS),
        "buffers": [
            rows(0, SPLIT),
            rows(SPLIT, VOCAB),
            {"kind": "constant", "name": "salt", "offset": 16, "bytes": 4 * CONTEXT},
            {"kind": "kv", "name": "kv.0", "bytes_per_position": 4, "bytes": 4 * context},
            {"kind": "state", "name": "state", "bytes": 256},
            {"kind": "io", "name": "input_ids", "bytes": 4 * max(CHUNKS)},
            {"kind": "io", "name": "token_ring", "bytes": 4 * RING},
            {"kind": "io", "name": "token_counts", "bytes": 4 * VOCAB},
            {"kind": "io", "name": "logits", "bytes": 4 * VOCAB},
            {"kind": "scratch", "name": "scratch.0", "bytes": 4 * max(CHUNKS)},
        ],
        "kernels": [
            kernel("gather", 4, ["read", "read", "read_write"]),
            kernel("append", 4, ["read", "read", "read_write"]),
            kernel("decode", 1, ["read", "read", "read", *["read_write"] * 5]),
        ],
        "programs": {
            "decode": [{"kernel": 2, "bind": [0, 1, 2, 4, 3, 8, 6, 7], "grid": [1, 1, 1]}],
            **{f"prefill_{chunk}": prefill(chunk) for chunk in CHUNKS},
        },
    }
