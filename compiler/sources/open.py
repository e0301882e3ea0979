"""Opens a source of whatever kind it is. The only place that knows which kinds there are."""

from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

from ..errors import WispError
from ..models import without_ignored
from . import hub, huggingface
from .ctranslate2 import CTranslate2Checkpoint, is_converted
from .files import is_ggml, read_object
from .formats import quantized_format
from .ggml import GgmlCheckpoint
from .gguf import GgufCheckpoint
from .gguf.reader import part_names
from .huggingface import HuggingFaceCheckpoint
from .lora import Adapter, open_adapter
from .mlc.checkpoint import SMALL_FILES, MlcCheckpoint, holds_mlc_weights
from .packed import PackedCheckpoint
from .protocol import Checkpoint, CheckpointSource, Request


def open_checkpoint(
    source: str | Path, revision: str | None = None, token: str | None = None, ignored_fields: Collection[str] = ()
) -> Checkpoint:
    """Opens a directory, a GGUF file, or a Hub id `org/name`: small files are downloaded now, weights when needed.

    Fields of the configuration that nobody knows are refused but those in `ignored_fields`.
    """
    path = Path(source)
    if path.is_dir():
        return _open_directory(path, CheckpointSource("directory", path.resolve().name, None), _nothing, ignored_fields)
    if path.is_file() and path.suffix.lower() == ".gguf":
        return GgufCheckpoint(path, ignored_fields)
    if path.is_file() and is_ggml(path):
        return GgmlCheckpoint(path)
    if (file := hub.gguf_in_hub(str(source))) is not None:
        return _open_hub_file(str(source), *file, revision, token, ignored_fields)
    repo = str(source)
    directory = hub.download(repo, revision, token, [*huggingface.SMALL_FILES, *SMALL_FILES], quiet=True)
    commit = directory.name  # the cache names a snapshot after its commit
    described = CheckpointSource("hub", repo, commit)
    return _open_directory(directory, described, partial(hub.download, repo, commit, token), ignored_fields)


def _open_hub_file(
    source: str, repo: str, file: str, revision: str | None, token: str | None, ignored_fields: Collection[str]
) -> Checkpoint:
    """A GGUF file of a repository, which is downloaded whole: its header says nothing that it could be left out for."""
    folder, _, name = file.rpartition("/")
    wanted = [f"{folder}/{part}" if folder else part for part in part_names(name)]
    directory = hub.download(repo, revision, token, wanted)
    if not (directory / file).is_file():
        raise WispError(
            f"the Hub's '{repo}' has no such file", got=file, remedy="check its name on the page of the repository"
        )
    return GgufCheckpoint(directory / file, ignored_fields, CheckpointSource("hub", source, directory.name))


def open_requested(request: Request) -> tuple[Checkpoint, Adapter | None]:
    """The checkpoint of a request and the adapter to merge into it. Raises WispError when one rules the other out."""
    checkpoint = open_checkpoint(request.source, request.revision, ignored_fields=request.ignore_fields)
    checkpoint.check_request(request)
    return checkpoint, open_adapter(request.lora) if request.lora is not None else None


def _open_directory(
    directory: Path, described: CheckpointSource, fetch: huggingface.Fetch, ignored_fields: Collection[str]
) -> Checkpoint:
    if holds_mlc_weights(directory):
        checkpoint: HuggingFaceCheckpoint = MlcCheckpoint(directory, described, fetch)
    elif is_converted(read_object(directory / "config.json", optional=True)):
        checkpoint = CTranslate2Checkpoint(directory, described, fetch)
    else:
        checkpoint = HuggingFaceCheckpoint(directory, described, fetch)
        form = quantized_format(checkpoint.config)
        if form is not None:
            checkpoint = PackedCheckpoint(directory, described, fetch, form)
    checkpoint.config = dict(without_ignored(checkpoint.config, ignored_fields))
    return checkpoint


def _nothing(files: Sequence[str]) -> None:
    """Fetches nothing: all files of a directory are there."""
