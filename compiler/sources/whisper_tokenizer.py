"""Whisper's tokenizer.json from its tokens alone, as whisper.cpp's files hold them: their order says the merges.

Knows GPT-2's bytes and OpenAI's special tokens (`whisper/tokenizer.py`); nothing of files.
"""

import itertools
import json
from collections.abc import Sequence
from functools import cache
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

_CODES = (
    "en zh de es ru ko fr ja pt tr pl ca nl ar sv it id hi fi vi he uk el ms cs ro da hu ta no th ur hr bg lt la mi ml "
    "cy sk te fa lv bn sr az sl kn et mk br eu is hy ne mn bs kk sq sw gl mr pa si km sn yo so af oc ka be tg sd gu am "
    "yi lo uz fo ht ps tk nn mt sa lb my bo tl mg as tt haw ln ha ba jw su yue"
)
LANGUAGES = _CODES.split()
TASKS = ("translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps")
TIMESTAMPS = 1501  # of 30 seconds
BYTES = 256
# What is no speech (OpenAI's `non_speech_tokens`): brackets, hashes and notes, but not what words need inside them.
_LONGER = "<< >> <<< >>> -- --- -( -[ (' (\" (( )) ((( ))) [[ ]] {{ }} ♪♪ ♪♪♪"
SYMBOLS = (*'"#()*+/:;<=>@[\\]^_`{|}~「」『』', *_LONGER.split())
NOTES = "♩♪♫♬♭♮♯"


def special_tokens(vocab_size: int, texts: int) -> list[str]:
    """The names of the tokens behind those of text, without the timestamps; too few where the sizes do not fit."""
    count = vocab_size - texts - 2 - len(TASKS) - TIMESTAMPS
    names = ["endoftext", "startoftranscript", *LANGUAGES[: max(0, count)], *TASKS]
    return [f"<|{name}|>" for name in names]


def tokenizer_of(tokens: Sequence[bytes], special: Sequence[str]) -> dict[str, Any]:
    """tokenizer.json of the tokens by id and of those behind them. Raises ValueError for tokens that no merges make."""
    ranks = {token: i for i, token in enumerate(tokens)}
    if len(ranks) < len(tokens) or any(len(token) != 1 for token in tokens[:BYTES]):
        raise ValueError("the first 256 tokens are not all bytes, or one is there twice")
    spelled = byte_characters()

    def spell(token: bytes) -> str:
        return "".join(spelled[byte] for byte in token)

    merges = []
    for rank in range(BYTES, len(tokens)):
        if not tokens[rank]:  # the last one of the vocabulary of many languages
            continue
        parts = _parts(tokens[rank], ranks, rank)
        if len(parts) != 2:
            raise ValueError(f"token {rank} is not made of two before it")
        merges.append((spell(parts[0]), spell(parts[1])))
    vocabulary = {spell(token): i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    found: dict[str, Any] = json.loads(tokenizer.to_str())
    return found


def _parts(token: bytes, ranks: dict[bytes, int], below: int) -> list[bytes]:
    """A token's bytes, joined by the merges of ranks below its own, the lowest first."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 1:
        joined = [ranks.get(a + b, below) for a, b in itertools.pairwise(parts)]
        least = min(joined)
        if least >= below:
            break
        i = joined.index(least)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts


def no_speech(tokenizer: dict[str, Any]) -> tuple[list[int], list[int]]:
    """The ids that OpenAI never lets a model say, and those that it may not begin with."""
    made = Tokenizer.from_str(json.dumps(tokenizer))

    def encode(text: str) -> list[int]:
        ids: list[int] = made.encode(text, add_special_tokens=False).ids
        return ids

    found = {encode(" -")[0], encode(" '")[0]}
    for symbol in (*SYMBOLS, *NOTES):
        for ids in (encode(symbol), encode(f" {symbol}")):
            if len(ids) == 1 or symbol in NOTES:
                found.add(ids[0])
    known = {token["content"]: int(token["id"]) for token in tokenizer["added_tokens"]}
    never = [f"<|{name}|>" for name in ("startoftranscript", *TASKS[:5])]
    return sorted(found | {known[name] for name in never}), [encode(" ")[0], known["<|endoftext|>"]]


@cache
def byte_characters() -> dict[int, str]:
    """The printable character that byte-level tokenizers write for each byte (GPT-2's `bytes_to_unicode`)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(BYTES) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(BYTES + i) for i, byte in enumerate(others)}
