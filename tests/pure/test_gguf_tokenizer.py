"""Tokenizers rebuilt from GGUF metadata give the ids of the originals, in Python and in the browser's library."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer

from compiler.errors import WispError
from compiler.sources.gguf.metadata import Metadata
from compiler.sources.gguf.pretokenizers import PRE_TOKENIZERS
from compiler.sources.gguf.reader import read_header
from compiler.sources.gguf.tokenizer import rebuild_tokenizer
from tests.checkpoints import CHAT_TEMPLATE, CORPUS
from tests.conftest import ROOT, unavailable
from tests.gguf_files import add_byte_level, add_sentence_piece

BROWSER_LIBRARY = ROOT / "web" / "node_modules" / "@huggingface" / "tokenizers"

TEXTS = [
    "Hello, world!",
    "I'm sure they'LL say we've done it, don't you?",
    "def f(x):\n    return x  +   1\n\n\n\t# done   ",
    "   three spaces before, and after   ",
    "10 123 4567 3.14159 1999-12-31 ١٢٣",
    "Emoji: 🙂 👩‍👩‍👧‍👦 🌊🌊 🇫🇷",
    "الريح فوق الماء، والقصب ينحني معها.",
    "风吹过水面，芦苇随之弯曲。光は石から石へ。한국어 텍스트",
    "naïve café, e\u0301tude, Straße, ǅungla",
    "mixed中文and English, CamelCaseWord HTTPServer/Path\r\nnext",
    "<|user|>\nHi there<|end|>\n<|assistant|>\nHello",
    "a<|end|>   b</s> c",
    "\n",
    " ",
    "",
    "▁ already ▁▁ escaped",
]
LONG_CORPUS = [*CORPUS.splitlines(), *TEXTS] * 8
ADDED = [("<|endoftext|>", True), ("<|user|>", True), ("<|assistant|>", True), ("<|end|>", True), ("<tool>", False)]


def header_of(path: Path, add: Callable[[gguf.GGUFWriter], None], architecture: str = "llama") -> Metadata:
    """The metadata of a file that holds a tokenizer and little else, written and read back."""
    writer = gguf.GGUFWriter(path, architecture)
    add(writer)
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Metadata(path.name, read_header(path).metadata)


def rebuilt(metadata: Metadata) -> tuple[Tokenizer, dict[str, Any], dict[str, Any]]:
    result = rebuild_tokenizer(metadata)
    return Tokenizer.from_str(json.dumps(result.json)), result.json, result.config


def ids_in_browser_library(directory: Path, files: dict[str, Any], config: dict[str, Any]) -> list[list[int]]:
    """What `@huggingface/tokenizers` makes of `TEXTS`."""
    if shutil.which("node") is None or not BROWSER_LIBRARY.is_dir():
        unavailable("node or web/node_modules is missing; run make setup")
    for name, content in (("tokenizer", files), ("config", config), ("texts", TEXTS)):
        (directory / f"{name}.json").write_text(json.dumps(content))
    script = f"""
        import {{ Tokenizer }} from {json.dumps(str(BROWSER_LIBRARY / "dist" / "tokenizers.mjs"))};
        import {{ readFileSync }} from "node:fs";
        const [tokenizer, config, texts] = ["tokenizer", "config", "texts"].map((name) =>
            JSON.parse(readFileSync(`{directory}/${{name}}.json`, "utf8")));
        const loaded = new Tokenizer(tokenizer, config);
        console.log(JSON.stringify(texts.map((text) => loaded.encode(text, {{ add_special_tokens: false }}).ids)));
    """
    done = subprocess.run(["node", "--input-type=module", "-e", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found: list[list[int]] = json.loads(done.stdout)
    return found


# ------------------------------------------------------------------------------------------------------ byte-level BPE

# As the models' own tokenizer.json state them.
CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
GPT4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = GPT4O.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", "").replace(r"\p{N}{1,3}", r"\p{N}")


def original_byte_level(pre: str) -> Tokenizer:
    """A small tokenizer built as the original ones of this pre-tokenizer are."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=pre in ("llama-bpe", "tekken")))
    by_regex = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    expressions = {"llama-bpe": LLAMA3, "dbrx": LLAMA3, "qwen2": QWEN2, "gpt-4o": GPT4O, "tekken": TEKKEN}
    if pre in expressions:
        split = pre_tokenizers.Split(Regex(expressions[pre]), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, plain])
    elif pre == "smollm":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), by_regex])
    else:
        tokenizer.pre_tokenizer = by_regex
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(LONG_CORPUS, trainer)
    tokenizer.add_special_tokens([text for text, special in ADDED if special])
    tokenizer.add_tokens([text for text, special in ADDED if not special])
    return tokenizer


def save(tokenizer: Tokenizer, directory: Path) -> None:
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {"eos_token": "<|endoftext|>", "bos_token": "<|user|>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE)


@pytest.mark.parametrize("pre", ["gpt-2", "phi-2", "smollm", "llama-bpe", "dbrx", "qwen2", "gpt-4o", "tekken"])
def test_byte_level_ids_are_those_of_the_original(tmp_path: Path, pre: str) -> None:
    original = original_byte_level(pre)
    save(original, tmp_path)
    metadata = header_of(tmp_path / "t.gguf", lambda writer: add_byte_level(writer, tmp_path, pre, 640))
    ours, files, config = rebuilt(metadata)
    expected = [original.encode(text, add_special_tokens=False).ids for text in TEXTS]
    assert [ours.encode(text, add_special_tokens=False).ids for text in TEXTS] == expected
    for text, ids in zip(TEXTS, expected, strict=True):
        assert ours.decode(ids, skip_special_tokens=False) == original.decode(ids, skip_special_tokens=False), text
    assert ids_in_browser_library(tmp_path, files, config) == expected
    bos = ours.token_to_id("<|user|>")
    assert ours.encode("a").ids[:1] == ([bos] if PRE_TOKENIZERS[pre].add_bos else original.encode("a").ids[:1])
    assert config["chat_template"] == CHAT_TEMPLATE


def test_the_rebuilt_files_load_in_transformers(tmp_path: Path) -> None:
    save(original_byte_level("llama-bpe"), tmp_path)
    metadata = header_of(tmp_path / "t.gguf", lambda writer: add_byte_level(writer, tmp_path, "llama-bpe", 640))
    result = rebuild_tokenizer(metadata)
    directory = tmp_path / "rebuilt"
    directory.mkdir()
    (directory / "tokenizer.json").write_text(json.dumps(result.json))
    (directory / "tokenizer_config.json").write_text(json.dumps(result.config))
    loaded = AutoTokenizer.from_pretrained(directory)
    original = original_byte_level("llama-bpe")
    for text in TEXTS:
        assert loaded.encode(text, add_special_tokens=False) == original.encode(text, add_special_tokens=False).ids
    assert loaded.encode("a")[0] == loaded.bos_token_id == result.bos_token_id
    assert loaded.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False).endswith("Hi<|end|>\n")
    assert result.end_token_ids[0] == loaded.eos_token_id
    assert loaded.convert_tokens_to_ids("<|end|>") in result.end_token_ids


# -------------------------------------------------------------------------------------------------------- SentencePiece


@pytest.fixture(scope="module")
def sentence_piece(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Trains a model as Llama's was: identity normalization, digits apart, bytes for what is not covered."""
    directory = tmp_path_factory.mktemp("sentencepiece")

    def train(model_type: str, **options: Any) -> Path:
        prefix = directory / f"{model_type}{len(list(directory.iterdir()))}"
        SentencePieceTrainer.Train(
            sentence_iterator=iter([line for line in LONG_CORPUS if line.strip()]),
            model_prefix=str(prefix),
            model_type=model_type,
            **{
                "vocab_size": 420,
                "character_coverage": 0.98,
                "byte_fallback": True,
                "split_digits": True,
                "normalization_rule_name": "identity",
                "remove_extra_whitespaces": False,
                "allow_whitespace_only_pieces": True,
                "minloglevel": 2,
                "num_threads": 1,
                **options,
            },
        )
        return prefix.with_suffix(".model")

    return train


PLAIN_TEXTS = [text for text in TEXTS if "<" not in text]


@pytest.mark.parametrize("prefix", [True, False])
def test_sentence_piece_bpe_ids_are_those_of_the_original(
    tmp_path: Path, sentence_piece: Callable[..., Path], prefix: bool
) -> None:
    model = sentence_piece("bpe", add_dummy_prefix=prefix)
    original = SentencePieceProcessor(model_file=str(model))

    def add(writer: gguf.GGUFWriter) -> None:
        add_sentence_piece(writer, model, 440, ADDED)
        writer.add_add_space_prefix(prefix)

    ours, files, config = rebuilt(header_of(tmp_path / "t.gguf", add))
    expected = [original.encode(text) for text in PLAIN_TEXTS]
    assert [ours.encode(text, add_special_tokens=False).ids for text in PLAIN_TEXTS] == expected
    for text, ids in zip(PLAIN_TEXTS, expected, strict=True):
        assert ours.decode(ids) == original.decode(ids), text
    assert ours.encode("a").ids == [1, *original.encode("a")]
    expected = [ours.encode(text, add_special_tokens=False).ids for text in TEXTS]
    assert ids_in_browser_library(tmp_path, files, config) == expected


def test_special_tokens_between_pieces(tmp_path: Path, sentence_piece: Callable[..., Path]) -> None:
    """Text is cut at special tokens; Phi-3 drops whitespace after its own, other models keep it."""
    model = sentence_piece("bpe")
    original = SentencePieceProcessor(model_file=str(model))
    start = original.vocab_size()
    end, user = start + 3, start + 1
    for architecture in ("llama", "phi3"):
        metadata = header_of(
            tmp_path / f"{architecture}.gguf", lambda w: add_sentence_piece(w, model, 440, ADDED), architecture
        )
        ours, files, config = rebuilt(metadata)
        after = "Hi" if architecture == "phi3" else "\nHi"
        expected = [user, *original.encode(after), end, *original.encode("b"), 2]
        assert ours.encode("<|user|>\nHi<|end|>b</s>", add_special_tokens=False).ids == expected
        browser = ids_in_browser_library(tmp_path, files, config)
        assert browser == [ours.encode(text, add_special_tokens=False).ids for text in TEXTS]
        assert rebuild_tokenizer(metadata).end_token_ids == (2, start, end)


@pytest.mark.parametrize("byte_fallback", [True, False])
def test_sentence_piece_unigram_ids_are_those_of_the_original(
    tmp_path: Path, sentence_piece: Callable[..., Path], byte_fallback: bool
) -> None:
    model = sentence_piece("unigram", byte_fallback=byte_fallback, vocab_size=400 if byte_fallback else 200)
    original = SentencePieceProcessor(model_file=str(model))
    metadata = header_of(tmp_path / "t.gguf", lambda writer: add_sentence_piece(writer, model, 440, ADDED))
    ours, files, config = rebuilt(metadata)
    # Of equally likely cuts of a run of spaces the two libraries take different ones.
    texts = [text for text in PLAIN_TEXTS if "  " not in text and "▁▁" not in text]
    assert len(texts) >= 8
    for text in texts:
        assert ours.encode(text, add_special_tokens=False).ids == original.encode(text), text
    if not byte_fallback:
        expected = [ours.encode(text, add_special_tokens=False).ids for text in TEXTS]
        assert ids_in_browser_library(tmp_path, files, config) == expected


# ------------------------------------------------------------------------------------------------------------- refusals


def bad_tokenizer(change: dict[str, Any]) -> Metadata:
    """A small byte-level tokenizer's metadata with some keys changed; None takes a key away."""
    values: dict[str, Any] = {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": ["a", "b", "ab", "<s>"],
        "tokenizer.ggml.token_type": [1, 1, 1, 3],
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.bos_token_id": 3,
    }
    values.update(change)
    return Metadata("t.gguf", {key: value for key, value in values.items() if value is not None})


def test_the_small_tokenizer_is_good() -> None:
    assert rebuild_tokenizer(bad_tokenizer({})).bos_token_id == 3


def test_tokens_with_a_role_are_special_also_without_types() -> None:
    changed = {"tokenizer.ggml.token_type": None, "tokenizer.ggml.tokens": ["a", "b", "ab", "<s>", "<|end|>"]}
    result = rebuild_tokenizer(bad_tokenizer(changed))
    assert [(token["id"], token["special"]) for token in result.json["added_tokens"]] == [(3, True), (4, True)]
    assert Tokenizer.from_str(json.dumps(result.json)).encode("<s>ab<|end|>").ids == [3, 2, 4]
    assert result.end_token_ids == (4,)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"tokenizer.ggml.model": None}, r"tokenizer\.ggml\.model.*got nothing"),
        ({"tokenizer.ggml.model": "bert"}, r"'bert'.*'gpt2' or 'llama'"),
        ({"tokenizer.ggml.pre": None}, r"tokenizer\.ggml\.pre.*got nothing.*llama-bpe"),
        ({"tokenizer.ggml.pre": "default"}, r"'default'.*gpt-2.*qwen2"),
        ({"tokenizer.ggml.tokens": None}, r"tokenizer\.ggml\.tokens.*got nothing"),
        ({"tokenizer.ggml.tokens": []}, r"tokenizer\.ggml\.tokens"),
        ({"tokenizer.ggml.tokens": [1, 2, 3, 4]}, r"tokenizer\.ggml\.tokens.*a list of texts"),
        ({"tokenizer.ggml.tokens": ["a", "b", "ab", "a"]}, r"'a' twice"),
        ({"tokenizer.ggml.token_type": [1, 1]}, r"token_type.*a list of 2.*4 numbers"),
        ({"tokenizer.ggml.merges": None}, r"merges.*got nothing"),
        ({"tokenizer.ggml.merges": ["a"]}, r"merge 0 'a'"),
        ({"tokenizer.ggml.merges": ["a c"]}, r"merge 0 'a c'"),
        ({"tokenizer.ggml.bos_token_id": 4}, r"bos_token_id.*got 4.*below 4"),
        ({"tokenizer.ggml.bos_token_id": -1}, r"bos_token_id.*-1"),
        ({"tokenizer.ggml.add_bos_token": 7}, r"add_bos_token.*true or false"),
        ({"tokenizer.chat_template": 5}, r"chat_template.*a text"),
        ({"tokenizer.ggml.model": "llama"}, r"scores.*got nothing"),
        ({"tokenizer.ggml.model": "llama", "tokenizer.ggml.scores": [0.0, -1.0]}, r"scores.*list of 2"),
        ({"tokenizer.ggml.model": "llama", "tokenizer.ggml.precompiled_charsmap": [1]}, r"precompiled_charsmap"),
    ],
)
def test_a_bad_tokenizer_is_refused(change: dict[str, Any], named: str) -> None:
    with pytest.raises(WispError, match=named):
        rebuild_tokenizer(bad_tokenizer(change))
