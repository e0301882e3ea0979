"""Writes the tokenizer fixtures of web/tests/text: small tokenizers of the two families that Llama and Phi use, and
what Hugging Face's `tokenizers` makes of some texts and ids. Run it in the project's environment when a case is added.
"""

import json
import random
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SPECIAL = ["<unk>", "<s>", "</s>", "<|user|>", "<|end|>"]
CORPUS = ["the quick brown fox jumps over the lazy dog", "a naïve café in 東京", "it's 1, 2, 3", "don't    stop"]
TEXTS = [
    "the quick brown fox",
    " leading and  double spaces ",
    "naïve café",
    "東京 🙂🙃 done",
    "<|user|>hi<|end|>",
    "a\n\n\tb",
    "",
]


def byte_level() -> Tokenizer:
    """Llama 3's family."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(CORPUS, trainer(pre_tokenizers.ByteLevel.alphabet()))
    return with_bos(tokenizer)


def byte_fallback() -> Tokenizer:
    """Llama 2's and Phi 3's family: SentencePiece's pieces, and a token for each byte."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.train_from_iterator(CORPUS[:1], trainer([]))
    data = json.loads(tokenizer.to_str())
    vocab = data["model"]["vocab"]
    vocab.update({f"<0x{byte:02X}>": len(vocab) + byte for byte in range(256)})
    data["model"].update(byte_fallback=True, fuse_unk=True)
    tokenizer = Tokenizer.from_str(json.dumps(data))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    return with_bos(tokenizer)


def trainer(alphabet: list[str]) -> trainers.BpeTrainer:
    special = [AddedToken(text, special=True, normalized=False) for text in SPECIAL]
    return trainers.BpeTrainer(
        vocab_size=320, show_progress=False, special_tokens=special, initial_alphabet=alphabet, min_frequency=1
    )


def with_bos(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def fixture(tokenizer: Tokenizer) -> dict[str, Any]:
    rng = random.Random(5)
    # Of bytes that are no UTF-8 the two libraries make different replacement characters: `<0x..>` stays out.
    vocab = sorted(id for text, id in tokenizer.get_vocab().items() if not text.startswith("<0x"))
    streams = [[rng.choice(vocab) for _ in range(length)] for length in (1, 7, 60)]
    streams += [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]
    return {
        "tokenizer": json.loads(tokenizer.to_str()),
        "config": {"bos_token": "<s>", "eos_token": {"content": "</s>"}},
        "encoded": [
            {
                "text": text,
                "ids": tokenizer.encode(text, add_special_tokens=False).ids,
                "with_special": tokenizer.encode(text).ids,
            }
            for text in TEXTS
        ],
        "decoded": [
            {
                "ids": ids,
                "text": tokenizer.decode(ids),
                "with_special": tokenizer.decode(ids, skip_special_tokens=False),
            }
            for ids in streams
        ],
    }


if __name__ == "__main__":
    for make in (byte_level, byte_fallback):
        path = Path(__file__).with_name(f"{make.__name__}.json")
        path.write_text(json.dumps(fixture(make()), ensure_ascii=False, separators=(",", ":")) + "\n")
