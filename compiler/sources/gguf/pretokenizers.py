"""GGUF's names of pre-tokenizers (`tokenizer.ggml.pre`) -> what they stand for in `tokenizer.json`.

The expressions are those of the models' own tokenizer.json; llama.cpp quotes them in `src/llama-vocab.cpp`.
"""

from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}"
_QWEN2 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_REST_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|"
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTIONS}?|\p{{N}}{{1,3}}|{_REST_SLASH}"
)
_TEKKEN = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}|{_REST_SLASH}"


@dataclass(frozen=True)
class PreTokenizer:
    """How text is cut before byte-level BPE, and what llama.cpp derives from the name besides."""

    steps: tuple[Json, ...]
    normalizer: Json | None = None
    ignore_merges: bool = False
    add_bos: bool = False  # when tokenizer.ggml.add_bos_token says nothing


def _byte_level(use_regex: bool) -> Json:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _split(expression: str, then_regex: bool = False) -> tuple[Json, ...]:
    split = {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
    return split, _byte_level(then_regex)


_GPT2 = PreTokenizer((_byte_level(use_regex=True),))
# These models say `Digits`, which means the same in Python; in the browser's library it knows ASCII digits only.
_DIGITS = PreTokenizer(_split(r"\p{N}", then_regex=True))
_LLAMA_BPE = PreTokenizer(_split(_LLAMA3), ignore_merges=True, add_bos=True)
_CL100K = PreTokenizer(_split(_LLAMA3))
_QWEN = PreTokenizer(_split(_QWEN2), normalizer={"type": "NFC"})
_O200K = PreTokenizer(_split(_GPT4O))

PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    "gpt-2": _GPT2,
    "phi-2": _GPT2,
    "olmo": _GPT2,
    "mpt": _GPT2,
    "smollm": _DIGITS,
    "starcoder": _DIGITS,
    "refact": _DIGITS,
    "llama-bpe": _LLAMA_BPE,
    "llama3": _LLAMA_BPE,
    "llama-v3": _LLAMA_BPE,
    "falcon3": _LLAMA_BPE,
    "dbrx": _CL100K,  # Phi-4
    "smaug-bpe": _CL100K,
    "qwen2": _QWEN,
    "deepseek-r1-qwen": _QWEN,
    "gpt-4o": _O200K,  # Phi-4 mini
    "llama4": _O200K,
    "tekken": PreTokenizer(_split(_TEKKEN), ignore_merges=True, add_bos=True),
}
