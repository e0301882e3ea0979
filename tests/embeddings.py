"""What the tests of embedding models on every device share: checkpoints, texts and what transformers makes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from compiler.runtime.session import Session
from tests.checkpoints import make_embedding, reference_embedding, reference_model, text_ids

# Of 1 - cosine.
BOUND = 1e-4
# One token and the end; less than a chunk of prefill; several chunks, the last of them in part.
TEXTS = ("a", "Who is there?", "The wind moved over the water, and the reeds bent with it. " * 3 + "naïve café 🙂🌊")
# Pooling, by the name of its mode, and the scheme of the weights.
CASES = (("lasttoken", "q0f32"), ("lasttoken", "q8f16_1"), ("mean_tokens", "q0f32"))


def checkpoint(directory: Path, pooling: str) -> Path:
    """The random checkpoint that pools so; made once a directory."""
    path = directory / pooling
    return path if path.exists() else make_embedding(path, pooling)


def furthest(source: Path, pooling: str, scheme: str, session: Session) -> float:
    """The largest 1 - cosine between what a plan computes and what transformers does, over the texts."""
    model = reference_model(source, scheme)
    distances = []
    for text in TEXTS:
        ids = text_ids(source, text)
        got = session.logits(ids).astype(np.float64)
        cosine = got @ reference_embedding(model, ids, pooling) / np.linalg.norm(got)
        distances.append(float(1 - cosine))
    return max(distances)
