"""What the pipeline asks of a checkpoint, wherever it comes from, and the words in which a source describes itself.

A kind of source is a class with these members and a line in `open.py`. No code here.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ..models.base import Role, WeightSpec
from ..weights.kept import Held
from ..weights.quantize import GroupScales
from ..weights.schemes import Scheme


@dataclass(frozen=True)
class TensorInfo:
    """A tensor of the checkpoint: its type (safetensors' name, where it has one), its shape and its file."""

    dtype: str
    shape: tuple[int, ...]
    file: Path
    stored_as: str | None = None  # its name in the file, where that is another


@dataclass(frozen=True)
class CheckpointSource:
    """Where a checkpoint came from, as model.json says it: no path of this machine."""

    kind: Literal["directory", "hub", "gguf", "ggml"]
    id: str
    revision: str | None


class Request(Protocol):
    """What is asked for, as far as a source has a say in it."""

    @property
    def source(self) -> str: ...

    @property
    def revision(self) -> str | None: ...

    @property
    def ignore_fields(self) -> tuple[str, ...]:
        """Fields of the configuration that nobody knows are refused but these."""
        ...

    @property
    def quantization(self) -> str: ...

    @property
    def quantization_overrides(self) -> Mapping[Role, str]: ...

    @property
    def lora(self) -> Path | None: ...


class Checkpoint(Protocol):
    """An open checkpoint: small files are read; weights are when they are asked for."""

    @property
    def source(self) -> CheckpointSource: ...

    @property
    def license(self) -> str | None:
        """As the checkpoint's own files state it."""
        ...

    @property
    def config(self) -> dict[str, Any]:
        """The fields of Hugging Face's config.json, or what it would say."""
        ...

    @property
    def generation_config(self) -> Mapping[str, Any]: ...

    # ------------------------------------------------------------------------------------------------------- tokenizer

    @property
    def tokenizer_files(self) -> tuple[Path, ...]:
        """The files that the artifact copies, tokenizer.json first."""
        ...

    @property
    def token_ids(self) -> Mapping[str, int]:
        """Every token of tokenizer.json and its id."""
        ...

    @property
    def chat_template(self) -> str | None:
        """The Jinja template of a conversation; None when the checkpoint has none."""
        ...

    @property
    def bos_token_id(self) -> int | None: ...

    @property
    def stop_token_ids(self) -> tuple[int, ...]:
        """Ids that end an answer."""
        ...

    # --------------------------------------------------------------------------------------------------------- weights

    @property
    def takes_as_it_is(self) -> bool:
        """Its weights are stored tensors already, and `check_request` refuses what would change them."""
        ...

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor that the source holds, by the source's names. Raises WispError for a damaged file."""
        ...

    def check_request(self, request: Request) -> None:
        """Raises WispError when more is asked for than this source can give."""
        ...

    def check_weights(self, specs: Sequence[WeightSpec], tied: bool) -> None:
        """Raises one WispError that lists every missing, unexpected or wrongly shaped tensor. Reads no weights."""
        ...

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Rows `[start, stop)` of the checkpoint's tensor `name` in float32. Only those rows are read."""
        ...

    def blocks(self, spec: WeightSpec) -> Iterator[NDArray[np.float32]]:
        """The rows of a weight in order, in float32 blocks."""
        ...

    def source_scales(self, spec: WeightSpec, first: int = 0) -> GroupScales | None:
        """The scales that the source itself quantized a weight with, rows counted from `first`; None: it did not."""
        ...

    def held(self, spec: WeightSpec) -> Held | None:
        """The scheme that takes a matrix's values as the source quantized them; None where it did not."""
        ...

    def stored(self, spec: WeightSpec, scheme: Scheme) -> list[tuple[str, NDArray]] | None:
        """The stored tensors of a weight, `(name, array)`, with the source's own integers and scales.

        None where there are none, and where what the weight is to be stored in by `scheme` does not hold them.
        """
        ...
