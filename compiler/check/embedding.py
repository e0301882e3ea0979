"""Embeddings of an artifact against those of its checkpoint: how far they point apart.

Knows vectors and the prompts of a sample; where kernels run and what a reference is, others know.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ..models.base import ModelConfig, ReadRows
from ..network.reference import ReferenceModel
from ..runtime.session import Session
from .inputs import Sample

# Of 1 - cosine: what a cache of 16 bits and integer products of the CPU leave.
BOUND = 1e-4

# The embedding of each of a sample's prompts, by its length, (hidden), of any norm.
Embeddings = Mapping[int, NDArray[np.float32]]


def reference_embeddings(config: ModelConfig, read_rows: ReadRows, sample: Sample) -> Embeddings:
    """What numpy says. One pass over the weights: a decoder's prompts share their hidden states."""
    model = ReferenceModel(config, read_rows)
    hidden = model.hidden_states(sample.ids)
    return {length: model.embedding(hidden[:length]) for length in sample.prompts}


def check_embeddings(
    runtime: Session, variant: Mapping[str, Any], sample: Sample, stored: Embeddings, original: Embeddings
) -> dict[str, Any]:
    """What a report says of a variant."""
    got = {length: runtime.logits(sample.ids[:length]) for length in sample.prompts}
    distances = cosine_distances(got, stored)
    failures = [
        f"a text of {length}: 1 - cosine {distance:.1e} exceeds {BOUND:g}"
        for length, distance in distances.items()
        if not distance <= BOUND
    ]
    return {
        "status": "failed" if failures else "passed",
        "bound": BOUND,
        "max_error": max(distances.values()),
        "cosine_distance": {str(length): distance for length, distance in distances.items()},
        "against_source": max(cosine_distances(got, original).values()),
        "failures": failures,
    }


def embedding_cost(sample: Sample, stored: Embeddings, original: Embeddings) -> dict[str, Any]:
    """What a report says of quantization."""
    return {"task": "embedding", "quantization_error": {"max_error": max(cosine_distances(stored, original).values())}}


def print_embeddings(report: Mapping[str, Any], console: Console) -> None:
    """The rest of a report as a table."""
    cost = report["quantization_error"]["max_error"]
    console.print(f"  {report['quantization']:<15}  1 - cosine {cost:.1e}", markup=False)
    console.print("  kernels against the stored weights, 1 - cosine of embeddings:", markup=False)
    table = Table(box=SIMPLE_HEAD)
    for heading in ("variant", "bound", "largest", "against the source", "result"):
        table.add_column(heading, justify="left" if heading in ("variant", "result") else "right", no_wrap=True)
    for row in report["variants"]:
        figures = ["", "", ""]
        result = row["status"]
        if result == "skipped":
            result += f": {row['reason']}"
        else:
            figures = [f"{row['bound']:g}", f"{row['max_error']:.1e}", f"{row['against_source']:.1e}"]
        table.add_row(row["name"], *figures, result)
    console.print(table)


def cosine_distances(got: Embeddings, expected: Embeddings) -> dict[int, float]:
    """1 - cosine of the embeddings of each text; 1e30 for what is no vector."""
    return {length: _distance(got[length], expected[length]) for length in expected}


def _distance(got: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    a, b = got.astype(np.float64), expected.astype(np.float64)
    with np.errstate(all="ignore"):
        distance = 1 - (a @ b) / (np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.nan_to_num(distance, nan=1e30))
