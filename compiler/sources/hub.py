"""The Hugging Face Hub: which names are its ids, and files of a repository in the local cache.

Knows repositories, revisions and what the Hub refuses; nothing of what the files hold.
"""

import contextlib
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from huggingface_hub import errors, snapshot_download
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from huggingface_hub.utils.logging import get_verbosity, set_verbosity

from ..errors import WispError


def is_hub_id(source: str) -> bool:
    """Whether a source reads like `org/name`."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}/[A-Za-z0-9][A-Za-z0-9_.-]{0,95}", source) is not None


def gguf_in_hub(source: str) -> tuple[str, str] | None:
    """The repository and the file of `org/name/FILE.gguf`; None when a source does not read like that."""
    parts = source.split("/")
    repo, file = "/".join(parts[:2]), "/".join(parts[2:])
    usual = all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_. -]{0,250}", part) for part in parts[2:])
    return (repo, file) if usual and file.lower().endswith(".gguf") and is_hub_id(repo) else None


def download(repo: str, revision: str | None, token: str | None, files: Sequence[str], *, quiet: bool = False) -> Path:
    """The local snapshot of a Hub repository with these files in it. Shows progress on a terminal, unless `quiet`."""
    what = f"'{repo}'" + (f" at revision '{revision}'" if revision else "")
    try:
        endpoint = os.environ.get("HF_ENDPOINT")
        with no_warnings(), no_progress_bars() if quiet or not sys.stderr.isatty() else contextlib.nullcontext():
            return Path(
                snapshot_download(repo, revision=revision, token=token, allow_patterns=list(files), endpoint=endpoint)
            )
    except errors.GatedRepoError as error:
        raise WispError(
            f"the Hub does not give {what} to everybody (it is gated)",
            remedy="accept its terms on the Hub, then log in with `hf auth login` or set HF_TOKEN",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise WispError(f"the Hub has no {what}", remedy="check the revision: a branch, a tag or a commit") from error
    except errors.RepositoryNotFoundError as error:
        raise WispError(
            f"the Hub has no {what}, or it is private",
            expected="a directory that exists or the id of a model, org/name",
            remedy="check the spelling; for a private model log in with `hf auth login` or set HF_TOKEN",
        ) from error
    except (errors.HTTPError, errors.RevisionResolutionError, OSError) as error:  # OSError: no network, offline, disk
        raise WispError(
            f"{what} cannot be downloaded and is not in the local cache",
            got=str(error.__cause__ or error).split("\n")[0],
            remedy="check the network connection, or give a local directory",
        ) from error


@contextlib.contextmanager
def no_warnings() -> Iterator[None]:
    """Keeps the Hub's library from telling each of its tries: what comes of them is an error or nothing."""
    before = get_verbosity()
    set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        set_verbosity(before)


@contextlib.contextmanager
def no_progress_bars() -> Iterator[None]:
    """Keeps the Hub's library from drawing on stderr."""
    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
