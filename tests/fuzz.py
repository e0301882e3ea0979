"""Random texts of every kind that a tokenizer treats in its own way. The same seed gives the same texts."""

import random
from collections.abc import Iterator, Sequence

WORDS = """the quick ISN'T we'll naïve Straße Ελλάδα Там 光は石 한국어 नमस्ते สวัสดี مرحبا 👩‍👩‍👧 🇫🇷 é e\u0301 ﬁ İ ß"""
SPECIAL = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_start")


def fuzzed(seed: int, count: int, special: Sequence[str] = SPECIAL) -> Iterator[str]:
    """Words of many scripts, numbers, code, spaces of all kinds and special tokens in any order."""
    pieces = (
        *WORDS.split(),
        *("0", "7", "42", "1999", "3.14", "½", "٤٢", "²", "0xFF", "1e-5", "x1y2"),
        *("{", "}", "()", "[]", "==", "!=", "->", "//", "#", "$", "%", "&&", "\\", "'", '"', "`", "…", "—", "“", "”"),
        *(" ", "  ", "    ", "\n", "\n\n", "\t", "\r\n", "\u00a0", "\u2009", "\u3000", "\u200b", "\u2028"),
        *special,
    )
    chance = random.Random(seed)
    for _ in range(count):
        some = [chance.choice(pieces) for _ in range(chance.randint(1, 24))]
        some += [
            chr(c) for _ in range(chance.randint(0, 3)) if not 0xD800 <= (c := chance.randint(1, 0x1FFFF)) < 0xE000
        ]
        chance.shuffle(some)
        yield chance.choice(("", " ")).join(some)
