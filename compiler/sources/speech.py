"""What decoding speech needs of a checkpoint: its special tokens and the ids that are never said.

Knows Whisper's names of tokens (`whisper/tokenizer.py` of OpenAI) and the fields of generation_config.json; nothing of
a network.
"""

import re
from collections.abc import Mapping
from typing import Any

from ..errors import WispError
from ..models.fields import shortened

MULTILINGUAL = 51865  # tokens of the smallest vocabulary with languages; English alone has one less
LANGUAGE = re.compile(r"<\|([a-z]{2,3})\|>")
# Ours, and the names that it has had.
TOKENS = {
    "start": ("<|startoftranscript|>",),
    "end": ("<|endoftext|>",),
    "translate": ("<|translate|>",),
    "transcribe": ("<|transcribe|>",),
    "previous": ("<|startofprev|>",),
    "no_speech": ("<|nospeech|>", "<|nocaptions|>"),
    "no_timestamps": ("<|notimestamps|>",),
}


def speech_tokens(
    token_ids: Mapping[str, int], config: Mapping[str, Any], generation: Mapping[str, Any]
) -> dict[str, Any]:
    """The tokens as model.json's `speech` has them. Raises WispError for a tokenizer that is not Whisper's.

    Timestamps follow `no_timestamps`, one for each 0.02 s.
    """
    found: dict[str, Any] = {}
    for ours, names in TOKENS.items():
        token = next((token_ids[name] for name in names if name in token_ids), None)
        if token is None:
            raise WispError(
                "the tokenizer is not one of Whisper",
                got=f"no token {names[0]}",
                expected=", ".join(names[0] for names in TOKENS.values()),
                remedy="use the tokenizer.json that the checkpoint was published with",
            )
        found[ours] = token
    first, last = found["start"] + 1, min(found["translate"], found["transcribe"])
    languages = {
        match[1]: token
        for text, token in token_ids.items()
        if (match := LANGUAGE.fullmatch(text)) and first <= token < last
    }
    stated = generation.get("is_multilingual")
    multilingual = stated if isinstance(stated, bool) else config.get("vocab_size", 0) >= MULTILINGUAL
    return {
        **found,
        "languages": dict(sorted(languages.items(), key=lambda item: item[1])) if multilingual else {},
        "suppress": _ids("suppress_tokens", config, generation),
        "begin_suppress": _ids("begin_suppress_tokens", config, generation),
    }


def _ids(name: str, config: Mapping[str, Any], generation: Mapping[str, Any]) -> list[int]:
    """A list of ids; of generation_config.json, else of config.json as transformers 4 wrote it."""
    value = generation.get(name, config.get(name))
    if value is None:
        return []
    vocab_size = config.get("vocab_size", 0)
    usable = isinstance(value, list) and all(type(token) is int and 0 <= token < vocab_size for token in value)
    if not usable:
        raise WispError(f"the field {name} is not usable", got=shortened(value), expected=f"ids below {vocab_size}")
    return list(value)
