"""A published chat model, SmolLM2-135M-Instruct: its GGUF file alone, against transformers' reading of it.

The plans are compiled in memory and replayed natively: those of the CPU in wasmtime, those of the GPU through wgpu.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer, pre_tokenizers

from compiler.artifact.state import SamplingParameters
from compiler.check.parity import BOUNDS, compare, log_softmax
from compiler.lowering.lower import rope_constants
from compiler.models import config_from_huggingface, weight_specs
from compiler.models.base import WeightSpec
from compiler.network.reference import ReferenceModel
from compiler.runtime.session import Session
from compiler.runtime.wasmtime import WasmRuntime
from compiler.runtime.wgpu import NativeRuntime
from compiler.sources.open import open_checkpoint
from compiler.sources.protocol import Checkpoint
from compiler.sources.weights import stored_tensors
from compiler.target.variants import VARIANTS
from compiler.weights.choice import AUTO, choose_scheme
from compiler.weights.quantize import dequantize, parameter_layout
from compiler.weights.schemes import Scheme
from tests.device.harness import Gpu
from tests.fuzz import fuzzed
from tests.lowering import lower_once
from tests.smollm2 import PROSE, TOKENS, Reference, golden_answers, model_file

CONTEXT = TOKENS
# Prefill's chunks. Logits are looked at once in so many tokens: after a whole chunk, decode takes the next token.
# A software GPU takes a second for a token.
CHUNKS = {"wasm": (16,), "webgpu": (256, 64)}
STRIDE = {"wasm": 17, "webgpu": 257}
LENGTH = {"wasm": 289, "webgpu": TOKENS}

Open = Callable[[str, str], Session]


@pytest.fixture(scope="module")
def file() -> Path:
    return model_file()


@pytest.fixture(scope="module")
def checkpoint(file: Path) -> Checkpoint:
    return open_checkpoint(file)


@pytest.fixture(scope="module")
def reference(file: Path) -> Reference:
    return Reference(file)


@pytest.fixture(scope="module")
def tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    return Tokenizer.from_file(str(checkpoint.tokenizer_files[0]))


@pytest.fixture(scope="module")
def prose(tokenizer: Tokenizer) -> list[int]:
    ids: list[int] = tokenizer.encode(PROSE.read_text(encoding="utf-8")).ids
    assert len(ids) >= TOKENS
    return ids[:TOKENS]


@pytest.fixture(scope="module")
def expected(reference: Reference, prose: list[int]) -> NDArray[np.float32]:
    """Logits (TOKENS, vocabulary) by transformers, in float32."""
    return reference.logits(prose)


def chosen(checkpoint: Checkpoint, specs: Sequence[WeightSpec], name: str) -> Scheme:
    """The scheme that a request for `name` comes to."""
    held = {(spec.role, spec.layer): checkpoint.held(spec) for spec in specs if spec.kind == "matrix"}
    return choose_scheme(name, {}, held)


@pytest.fixture(scope="module")
def open_session(checkpoint: Checkpoint, request: pytest.FixtureRequest) -> Iterator[Open]:
    """The file's weights stored in a scheme, under a variant's plan."""
    model = config_from_huggingface(checkpoint.config, CONTEXT)
    specs = weight_specs(model)
    checkpoint.check_weights(specs, tied=model.tie_word_embeddings)

    @cache
    def stored(scheme_name: str) -> dict[str, NDArray]:
        scheme = chosen(checkpoint, specs, scheme_name)
        return {name: tensor for spec in specs for name, tensor in stored_tensors(checkpoint, spec, scheme)}

    def open_it(name: str, scheme_name: str) -> Session:
        variant, tensors = VARIANTS[name], stored(scheme_name)
        chunks = CHUNKS[variant.backend]
        scheme = chosen(checkpoint, specs, scheme_name)
        lowered = lower_once(model, scheme, variant, CONTEXT, chunks, alternatives=False)

        def rows(tensor: str, start: int, stop: int) -> bytes:
            return np.ascontiguousarray(tensors[tensor][start:stop]).tobytes()

        constants = rope_constants(model, CONTEXT)
        if variant.backend == "wasm":
            return WasmRuntime(lowered.plan, lowered.modules["kernels"], rows, constants)
        gpu: Gpu = request.getfixturevalue("gpu")
        return NativeRuntime(lowered.plan, lowered.kernels, variant.required_features, rows, constants, gpu.adapter)

    yield open_it
    stored.cache_clear()


# ------------------------------------------------------------------------------------------------------------ tokenizer


def test_the_tokenizer_is_the_one_that_transformers_reads(reference: Reference, tokenizer: Tokenizer) -> None:
    """But for `tokenizer.ggml.pre`, which transformers does not read: the model's tokenizer.json splits at digits."""
    theirs = Tokenizer.from_str(reference.tokenizer.backend_tokenizer.to_str())
    read = theirs.pre_tokenizer
    theirs.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), read])
    for text in [*fuzzed(5, 3000), PROSE.read_text(encoding="utf-8")]:
        ids = tokenizer.encode(text).ids
        assert ids == theirs.encode(text).ids, repr(text)
        assert tokenizer.decode(ids, skip_special_tokens=False) == theirs.decode(ids, skip_special_tokens=False)
        if not any(character.isnumeric() for character in text):
            assert ids == reference.tokenizer.encode(text), repr(text)


def test_the_chat_template_and_the_ends_are_those_of_the_file(reference: Reference, checkpoint: Checkpoint) -> None:
    assert checkpoint.chat_template == reference.tokenizer.chat_template
    assert reference.tokenizer.eos_token_id in checkpoint.stop_token_ids
    assert checkpoint.license == "apache-2.0"


# --------------------------------------------------------------------------------------------------------------- logits


def stepped(session: Session, ids: list[int], ends: list[int]) -> NDArray[np.float32]:
    """Logits after each of the first `ends` tokens, which decode takes; the ones between go through prefill."""
    session.reset()
    session.set_sampling(SamplingParameters())
    found = []
    for start, end in itertools.pairwise([0, *ends]):
        session.prefill(ids[start:end])
        found.append(session.next_logits(ids[end - 1]))
    return np.stack(found)


# The file as it is kept on both backends, floats of each width on one: test_parity.py has every pair at a small size.
@pytest.mark.parametrize(
    ("variant", "scheme"),
    [("wasm-simd", "q0f32"), ("wasm-simd", AUTO), ("webgpu-f32-sg", "q0f16"), ("webgpu-f32-sg", AUTO)],
)
def test_logits_of_prose(
    open_session: Open, prose: list[int], expected: NDArray[np.float32], variant: str, scheme: str
) -> None:
    stride, length = STRIDE[VARIANTS[variant].backend], LENGTH[VARIANTS[variant].backend]
    # The file's values, or with `auto` the norms alone, are rounded to 16 bits there.
    bound = BOUNDS["float32" if scheme == "q0f32" else "float16"]
    ends = sorted({*range(stride, length, stride), length})
    got = stepped(open_session(variant, scheme), prose, ends)
    result = compare(got, expected[[end - 1 for end in ends]], bound)
    assert result.max_error <= bound
    assert result.top1_breaks == 0


def test_the_file_is_kept(checkpoint: Checkpoint, prose: list[int], expected: NDArray[np.float32]) -> None:
    """Every matrix value by value, in no more bytes than the file; the perplexity is that of transformers' reading."""
    model = config_from_huggingface(checkpoint.config, CONTEXT)
    specs = weight_specs(model)
    scheme = chosen(checkpoint, specs, AUTO)
    tensors: dict[str, NDArray] = {}
    for spec in specs:
        own = dict(stored_tensors(checkpoint, spec, scheme))
        if spec.kind == "matrix":
            source = np.concatenate(list(checkpoint.blocks(spec)))
            np.testing.assert_array_equal(dequantize(spec, own, scheme), source, err_msg=spec.name)
        tensors |= own
    assert scheme.name == "q4af16_g32"
    assert sum(tensor.nbytes for tensor in tensors.values()) <= 98_000_000

    def rows(spec: WeightSpec, start: int, stop: int) -> NDArray[np.float32]:
        part = replace(spec, shape=(stop - start, *spec.shape[1:]))
        names = [name for name, _, _ in parameter_layout(spec, scheme)]
        return dequantize(part, {name: tensors[name][start:stop] for name in names}, scheme)

    reference = ReferenceModel(model, rows)
    logits = reference.logits(reference.hidden_states(prose))
    assert perplexity(logits, prose) == pytest.approx(perplexity(expected, prose), rel=2e-3)
    assert (logits.argmax(axis=1) == expected.argmax(axis=1)).mean() >= 0.99


def perplexity(logits: NDArray[np.float32], ids: list[int]) -> float:
    predicted = log_softmax(logits[:-1])
    return float(np.exp(-predicted[np.arange(len(ids) - 1), ids[1:]].mean()))


# -------------------------------------------------------------------------------------------------------------- answers


def test_greedy_answers_are_those_of_transformers(open_session: Open, reference: Reference) -> None:
    """Every golden answer, all of it: no token's lead is within what a rounding may decide. One is made anew."""
    session, bound = open_session("wasm-simd", "q0f32"), BOUNDS["float32"]
    answers = golden_answers()
    assert len(answers) == 12
    for answer in answers:
        clear = answer.clear_until(bound)
        assert clear == len(answer.ids)
        assert tuple(session.generate(list(answer.prompt_ids), clear, SamplingParameters())) == answer.ids
    again = reference.answer(answers[0].prompt)
    assert (again.prompt_ids, again.ids, again.text) == (answers[0].prompt_ids, answers[0].ids, answers[0].text)
