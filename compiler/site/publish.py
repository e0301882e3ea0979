"""`wisp publish`: the site where people get it, through any fsspec file system: object storage, or a directory.

Only what has changed is sent. What points at a file is sent after it, `model.json` after its artifact's files and the
page last: whoever comes in between finds no new `model.json` and no new page whose files are not all there. Who loads
the former version meanwhile may meet a file of the new one under the same name: its hash tells, and the load begins
anew when `model.json` has come. `published.json` beside the site says what is there; before a file is replaced it is
struck off, so that what an interrupted run has left is sent again.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import fsspec

from ..errors import WispError
from ..progress import Report, human_bytes
from ..serving.catalogue import is_safe_name
from .export import check_file
from .files import SiteFile, site_files, total_bytes

RECORD = "published.json"
# What a backend calls the headers that an object is served with.
HEADERS: dict[str, Callable[[SiteFile], dict[str, Any]]] = {
    "s3": lambda file: {"ContentType": file.media_type, "CacheControl": file.cache_control},
    "gs": lambda file: {
        "content_type": file.media_type,
        "fixed_key_metadata": {"cache_control": file.cache_control},
    },
    "abfs": lambda file: {"content_settings": {"content_type": file.media_type, "cache_control": file.cache_control}},
    "file": lambda file: {},
}
SAME = {"gcs": "gs", "s3a": "s3", "local": "file", "az": "abfs"}


def publish(artifacts: Path, target: str, report: Report, *, models: Sequence[str] = ()) -> None:
    """Sends the site to a URL such as `s3://bucket/path`. Raises WispError."""
    system, root, scheme = _open(target)
    files = site_files(artifacts, models, report.note)
    with _reported(target):
        there = _read_record(system, root)
        sizes = _sizes(system, root)
        changed = [file for file in files if there.get(file.name) != file.sha256 or sizes.get(file.name) != file.size]
        gone = sorted(there.keys() - {file.name for file in files})
        if changed or gone:
            unsure = {file.name for file in changed} | set(gone)
            _write_record(system, root, {name: sha for name, sha in there.items() if name not in unsure}, gone)
        with report.stage("send", total_bytes(changed)) as advance:
            for file in changed:
                _send(system, root, file, HEADERS[scheme](file))
                advance(file.size)
        for name in gone:
            with contextlib.suppress(FileNotFoundError):
                system.rm_file(f"{root}/{name}")
        if changed or gone:
            _write_record(system, root, {file.name: file.sha256 for file in files}, ())
    sent = f"{len(changed)} of {len(files)} files sent, {human_bytes(total_bytes(changed))}"
    report.note(f"{target}: {sent}" + (f", {len(gone)} deleted" if gone else ""))


def _open(target: str) -> tuple[Any, str, str]:
    """The file system behind a URL, the path in it, and what it is called here."""
    scheme = target.partition("://")[0] if "://" in target else ""
    scheme = SAME.get(scheme, scheme)
    if scheme not in HEADERS:
        known = ", ".join(f"{name}://" for name in HEADERS)
        raise WispError("there is no way to publish there", got=target, expected=f"a URL that begins with {known}")
    try:
        # Buckets are never made: a mistyped one would be.
        system, root = fsspec.core.url_to_fs(target, **({"auto_mkdir": True} if scheme == "file" else {}))
    except ImportError as error:
        raise WispError(
            f"publishing to {scheme}:// needs a package that is not installed",
            got=str(error).split("\n")[0],
            remedy="pip install 'wisp[publish]'",
        ) from error
    except (ValueError, OSError) as error:
        raise WispError(f"{target} cannot be opened", got=str(error)) from error
    if not root.strip("/"):
        raise WispError("the target names no bucket or directory", got=target, expected=f"{scheme}://bucket/path")
    return system, root.rstrip("/"), scheme


@contextlib.contextmanager
def _reported(target: str) -> Iterator[None]:
    """What a storage service refuses, as a line; boto's errors are of no common class."""
    try:
        yield
    except WispError:
        raise
    except Exception as error:
        told = isinstance(error, OSError) or type(error).__module__.split(".")[0] in STORAGE_MODULES
        if not told:
            raise
        raise WispError(
            f"{target} refuses",
            got=str(error) or type(error).__name__,
            remedy="check the address and your credentials; publishing again makes it whole",
        ) from error


STORAGE_MODULES = ("botocore", "aiobotocore", "s3fs", "gcsfs", "google", "aiohttp", "azure", "adlfs")


def _read_record(system: Any, root: str) -> dict[str, str]:
    """What was published before, as far as it is known to be whole; of what is to be deleted no hash."""
    try:
        found = json.loads(system.cat_file(f"{root}/{RECORD}"))
    except (FileNotFoundError, ValueError):
        return {}
    match found:
        case {"files": dict(files), "gone": list(gone)}:
            # Whoever can write there may have written it: it names nothing outside.
            there = {**{name: "" for name in gone if isinstance(name, str)}, **files}
            return {name: sha for name, sha in there.items() if is_safe_name(name)}
    return {}


def _write_record(system: Any, root: str, files: Mapping[str, str], gone: Sequence[str]) -> None:
    """`gone` are files that are to be deleted."""
    content = json.dumps({"files": dict(sorted(files.items())), "gone": list(gone)}, indent=2).encode()
    system.pipe_file(f"{root}/{RECORD}", content)


def _sizes(system: Any, root: str) -> dict[str, int]:
    """Sizes of what is there, by name."""
    try:
        found: Mapping[str, Mapping[str, Any]] = system.find(root, detail=True, refresh=True)
    except FileNotFoundError:
        return {}
    return {path.removeprefix(f"{root}/"): int(entry["size"]) for path, entry in found.items()}


def _send(system: Any, root: str, file: SiteFile, headers: Mapping[str, Any]) -> None:
    path = f"{root}/{file.name}"
    if isinstance(file.content, bytes):
        system.pipe_file(path, file.content, **headers)
        return
    check_file(file)
    system.put_file(str(file.content), path, **headers)
