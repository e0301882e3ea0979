"""Rebuilds `tokenizer.json` and `tokenizer_config.json` from a GGUF file's metadata.

Knows the two kinds that llama.cpp writes for the supported networks: `gpt2` (byte-level BPE, with merges) and `llama`
(SentencePiece, with a score for each token). Knows nothing of tensors.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gguf.constants import TokenType

from ...errors import WispError
from ..turns import END_TEXTS
from .metadata import Metadata
from .pretokenizers import PRE_TOKENIZERS, Json

SPACE = "\u2581"  # SentencePiece's sign of a space

# Tokens of Phi-3's SentencePiece vocabulary after which whitespace stays; it is dropped after all its other special
# ones. GGUF does not say so; llama.cpp knows it by the model's name.
PHI3_KEEPS_SPACE = ("<unk>", "<s>", "<|endoftext|>")


@dataclass(frozen=True)
class Tokenizer:
    """The rebuilt files and the ids that the model's configuration needs."""

    json: Json
    config: Json
    bos_token_id: int | None
    end_token_ids: tuple[int, ...]


@dataclass(frozen=True)
class _Vocabulary:
    """Tokens by id, with types and scores, and the ids with a role."""

    tokens: tuple[str, ...]
    types: tuple[int, ...]
    bos: int | None
    eos: int | None
    unk: int | None
    pad: int | None
    add_bos: bool
    add_eos: bool

    def ids(self, *types: int) -> list[int]:
        return [i for i, kind in enumerate(self.types) if kind in types]

    def text(self, token: int | None) -> str | None:
        return None if token is None else self.tokens[token]


def rebuild_tokenizer(metadata: Metadata) -> Tokenizer:
    """The tokenizer of a GGUF file. Raises WispError for what is missing, contradicts itself or is not supported."""
    kind = metadata.text("tokenizer.ggml.model")
    match kind:
        case "gpt2":
            vocabulary, parts = _byte_level(metadata)
        case "llama":
            vocabulary, parts = _sentence_piece(metadata)
        case _:
            metadata.refuse("tokenizer.ggml.model", "'gpt2' or 'llama'", "compile the Hugging Face checkpoint")
    strips = kind == "llama" and metadata.text("general.architecture") == "phi3"
    return Tokenizer(
        json={
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": _added_tokens(vocabulary, PHI3_KEEPS_SPACE if strips else None),
            "post_processor": _post_processor(vocabulary),
            **parts,
        },
        config=_config(metadata, vocabulary),
        bos_token_id=vocabulary.bos,
        end_token_ids=_end_token_ids(metadata, vocabulary),
    )


# ------------------------------------------------------------------------------------------------------------ two kinds


def _byte_level(metadata: Metadata) -> tuple[_Vocabulary, Json]:
    name = metadata.text("tokenizer.ggml.pre", default="")
    if name not in PRE_TOKENIZERS:
        metadata.refuse(
            "tokenizer.ggml.pre", ", ".join(PRE_TOKENIZERS), "compile the Hugging Face checkpoint, or convert it again"
        )
    pre = PRE_TOKENIZERS[name]
    vocabulary = _vocabulary(metadata, pre.add_bos, bos=None, eos=None, unk=None)
    used = _used(vocabulary)
    merges = []
    for i, merge in enumerate(metadata.texts("tokenizer.ggml.merges")):
        left, _, right = merge.partition(" ")
        if not (left in used and right in used and left + right in used):
            raise WispError(
                f"{metadata.file}: metadata 'tokenizer.ggml.merges' is not usable",
                got=f"merge {i} {merge!r}",
                expected="two tokens that make a third, with a space between",
                remedy="convert the original checkpoint again",
            )
        merges.append([left, right])
    return vocabulary, {
        "normalizer": pre.normalizer,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": list(pre.steps)},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": _bpe(used, merges, unk=None, ignore_merges=pre.ignore_merges, byte_fallback=False),
    }


def _sentence_piece(metadata: Metadata) -> tuple[_Vocabulary, Json]:
    for key in ("remove_extra_whitespaces", "precompiled_charsmap"):
        if metadata.get(f"tokenizer.ggml.{key}"):
            metadata.refuse(f"tokenizer.ggml.{key}", "nothing", "compile the Hugging Face checkpoint")
    vocabulary = _vocabulary(metadata, add_bos=True, bos=1, eos=2, unk=0)
    used = _used(vocabulary)
    scores = metadata.numbers("tokenizer.ggml.scores", len(vocabulary.tokens))
    prefix = metadata.boolean("tokenizer.ggml.add_space_prefix", default=True)
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    restore = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    decoders = [restore, {"type": "ByteFallback"}, {"type": "Fuse"}]
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    normal = vocabulary.ids(TokenType.NORMAL)
    byte_fallback = len(vocabulary.ids(TokenType.BYTE)) == 256
    model: Json
    # A BPE model scores its pieces 0, -1, -2, ...; a unigram model by logarithms of probabilities.
    if all(scores[i] == int(scores[i]) for i in normal):
        merges = _merges_by_score(vocabulary.tokens, scores, normal)
        model = _bpe(used, merges, vocabulary.text(vocabulary.unk), ignore_merges=False, byte_fallback=byte_fallback)
    else:
        pieces = [[token, score] for token, score in zip(vocabulary.tokens, scores, strict=True)]
        model = {"type": "Unigram", "unk_id": vocabulary.unk, "vocab": pieces, "byte_fallback": byte_fallback}
    return vocabulary, {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [{"type": "Prepend", "prepend": SPACE}, replace] if prefix else [replace],
        },
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": [*decoders, strip] if prefix else decoders},
        "model": model,
    }


def _merges_by_score(tokens: Sequence[str], scores: Sequence[float], normal: Sequence[int]) -> list[list[str]]:
    """Every way to make a piece of two pieces, best score first (as transformers converts SentencePiece models).

    SentencePiece merges the pair whose union has the best score; where scores are equal the older piece goes first.
    """
    pieces = {tokens[i] for i in normal}
    merges = []
    for i in sorted(normal, key=lambda i: (-scores[i], i)):
        piece = tokens[i]
        for cut in range(len(piece) - 1, 0, -1):
            left, right = piece[:cut], piece[cut:]
            if left in pieces and right in pieces:
                merges.append([left, right])
    return merges


def _bpe(
    used: Mapping[str, int], merges: list[list[str]], unk: str | None, ignore_merges: bool, byte_fallback: bool
) -> Json:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": unk,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": unk is not None,
        "byte_fallback": byte_fallback,
        "ignore_merges": ignore_merges,
        "vocab": dict(used),
        "merges": merges,
    }


# ----------------------------------------------------------------------------------------------------------- vocabulary


def _vocabulary(metadata: Metadata, add_bos: bool, bos: int | None, eos: int | None, unk: int | None) -> _Vocabulary:
    """The tokens and their roles; the arguments are llama.cpp's defaults for the kind."""
    tokens = metadata.texts("tokenizer.ggml.tokens")
    if not tokens:
        metadata.refuse("tokenizer.ggml.tokens", "tokens")
    tokens = [token or f"[EMPTY_{i}]" for i, token in enumerate(tokens)]
    types = [int(TokenType.NORMAL)] * len(tokens)
    if metadata.get("tokenizer.ggml.token_type") is not None:
        types = [int(kind) for kind in metadata.numbers("tokenizer.ggml.token_type", len(tokens))]
    if len(set(tokens)) < len(tokens):
        twice, _ = Counter(tokens).most_common(1)[0]
        raise WispError(
            f"{metadata.file}: metadata 'tokenizer.ggml.tokens' is not usable",
            got=f"{twice!r} twice",
            expected="every token once",
            remedy="convert the original checkpoint again",
        )

    def role(name: str, default: int | None) -> int | None:
        key = f"tokenizer.ggml.{name}_token_id"
        token = metadata.optional_integer(key)
        token = default if token is None else token
        if token is not None and token >= len(tokens):
            metadata.refuse(key, f"an id below {len(tokens)}")
        return token

    # Tokens with such a role are found in the text also where the file forgets to say that they are special.
    named = [role(name, None) for name in ("bos", "eos", "eot", "eom")]
    for i in {*named, *(i for i, token in enumerate(tokens) if token in END_TEXTS)}:
        if i is not None and types[i] == TokenType.NORMAL:
            types[i] = TokenType.CONTROL
    return _Vocabulary(
        tokens=tuple(tokens),
        types=tuple(types),
        bos=role("bos", bos),
        eos=role("eos", eos),
        unk=role("unknown", unk),
        pad=role("padding", None),
        add_bos=metadata.boolean("tokenizer.ggml.add_bos_token", default=add_bos),
        add_eos=metadata.boolean("tokenizer.ggml.add_eos_token", default=False),
    )


def _used(vocabulary: _Vocabulary) -> dict[str, int]:
    """Tokens and ids but for unused ones: rows of the embedding that only fill it up."""
    unused = set(vocabulary.ids(TokenType.UNUSED))
    return {token: i for i, token in enumerate(vocabulary.tokens) if i not in unused}


def _added_tokens(vocabulary: _Vocabulary, keeps_space: Sequence[str] | None) -> list[Json]:
    """Tokens that are found in a text before anything else; `keeps_space`: those that whitespace stays after (all)."""
    added = []
    for i in vocabulary.ids(TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNKNOWN):
        text = vocabulary.tokens[i]
        added.append(
            {
                "id": i,
                "content": text,
                "single_word": False,
                "lstrip": False,
                "rstrip": keeps_space is not None and text not in keeps_space,
                "normalized": False,
                "special": vocabulary.types[i] != TokenType.USER_DEFINED,
            }
        )
    return added


def _post_processor(vocabulary: _Vocabulary) -> Json | None:
    """Adds the begin and end tokens where the model wants them."""
    before = vocabulary.bos if vocabulary.add_bos else None
    after = vocabulary.eos if vocabulary.add_eos else None
    if before is None and after is None:
        return None

    def template(sequences: str) -> list[Json]:
        steps: list[Json] = []
        for kind, name in enumerate(sequences):
            if before is not None:
                steps.append({"SpecialToken": {"id": vocabulary.tokens[before], "type_id": kind}})
            steps.append({"Sequence": {"id": name, "type_id": kind}})
            if after is not None:
                steps.append({"SpecialToken": {"id": vocabulary.tokens[after], "type_id": kind}})
        return steps

    special = {}
    for token in (before, after):
        if token is not None:
            text = vocabulary.tokens[token]
            special[text] = {"id": text, "ids": [token], "tokens": [text]}
    return {
        "type": "TemplateProcessing",
        "single": template("A"),
        "pair": template("AB"),
        "special_tokens": special,
    }


def _config(metadata: Metadata, vocabulary: _Vocabulary) -> Json:
    """tokenizer_config.json, with the chat template."""
    roles = {
        "bos_token": vocabulary.text(vocabulary.bos),
        "eos_token": vocabulary.text(vocabulary.eos),
        "unk_token": vocabulary.text(vocabulary.unk),
        "pad_token": vocabulary.text(vocabulary.pad),
    }
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": vocabulary.add_bos,
        "add_eos_token": vocabulary.add_eos,
        "clean_up_tokenization_spaces": False,
        **{name: text for name, text in roles.items() if text is not None},
    }
    if metadata.get("tokenizer.chat_template"):
        config["chat_template"] = metadata.text("tokenizer.chat_template")
    return config


def _end_token_ids(metadata: Metadata, vocabulary: _Vocabulary) -> tuple[int, ...]:
    """Ids that end an answer: end of sequence, of turn and of message, and the tokens known for it."""
    found = [vocabulary.eos]
    found += [metadata.optional_integer(f"tokenizer.ggml.{name}_token_id") for name in ("eot", "eom")]
    named = vocabulary.ids(TokenType.CONTROL, TokenType.USER_DEFINED)
    found += [i for i in named if vocabulary.tokens[i] in END_TEXTS]
    return tuple(dict.fromkeys(i for i in found if i is not None and i < len(vocabulary.tokens)))
