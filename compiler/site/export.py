"""`wisp export`: the site as a directory. It appears whole or not at all, and takes the place of an earlier one."""

import contextlib
import hashlib
import json
import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import WispError
from ..progress import Report, human_bytes
from ..serving.app import is_base
from .files import SiteFile, site_files, total_bytes
from .hosts import host_files

BLOCK = 1 << 20
MARK = "wisp-site.json"  # what is in a directory that may be replaced


def export(artifacts: Path, output: Path, report: Report, *, models: Sequence[str] = (), base: str = "/") -> None:
    """Writes page, models and host files to `output`. Raises WispError, and then leaves it as it was."""
    check_base(base)
    check_output(output)
    files = site_files(artifacts, models, report.note)
    hosts = host_files(base, files)
    names = sorted([*(file.name for file in files), *hosts, ".nojekyll"])
    with _replacing(output) as directory, report.stage("copy", total_bytes(files)) as advance:
        for file in files:
            write_file(directory / file.name, file)
            advance(file.size)
        for name, text in hosts.items():
            (directory / name).write_text(text, encoding="utf-8")
        (directory / ".nojekyll").touch()  # GitHub's pages are to be served as they are
        (directory / MARK).write_text(json.dumps(names, indent=2) + "\n")
    report.note(f"{output}: {len(files)} files, {human_bytes(total_bytes(files))}; any static host can serve it")


def check_base(base: str) -> None:
    """Raises WispError for what is no path with slashes at both ends."""
    if not is_base(base):
        raise WispError("--base is no path", got=base, expected="something like /sub/, of letters, digits, ., _ and -")


def check_output(output: Path) -> None:
    """Raises WispError unless `output` is new, empty, or an export that nothing was added to."""
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise WispError(f"{output} is not a directory", remedy="choose another one")
    if not output.is_dir():
        return
    found = sorted(path.relative_to(output).as_posix() for path in output.rglob("*") if not path.is_dir())
    with contextlib.suppress(OSError, ValueError):
        found = sorted(set(found) - {MARK, *json.loads((output / MARK).read_bytes())})
    if found:
        shown = ", ".join(found[:4]) + (", ..." if len(found) > 4 else "")
        raise WispError(
            f"{output} holds files that are not of an export",
            got=shown,
            expected="a new or empty directory, or an export to replace",
            remedy="move them away or choose another directory",
        )


@contextlib.contextmanager
def _replacing(output: Path) -> Iterator[Path]:
    """A directory beside `output` that takes its place in the end."""
    target = output.absolute()
    mark = secrets.token_hex(4)
    new, old = (target.with_name(f".{target.name}.{mark}.{what}.partial") for what in ("new", "old"))
    try:
        new.mkdir(parents=True)
        yield new
        if target.exists():
            target.rename(old)
        new.rename(target)
    except OSError as error:
        raise WispError(f"{output} cannot be written", got=error.strerror or str(error)) from error
    finally:
        if old.exists() and not target.exists():
            old.rename(target)
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def write_file(path: Path, file: SiteFile) -> None:
    """Copies a file, and holds what was copied against its hash. Raises WispError, OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(file.content, bytes):
        path.write_bytes(file.content)
        return
    if not file.content.is_file():
        raise damaged(file)
    digest = hashlib.sha256()
    with file.content.open("rb") as source, path.open("xb") as target:
        while block := source.read(BLOCK):
            digest.update(block)
            target.write(block)
    if digest.hexdigest() != file.sha256:
        raise damaged(file)
    shutil.copystat(file.content, path)  # which keeps what hosts make an ETag of


def check_file(file: SiteFile) -> None:
    """Raises WispError when a file on the disk is not what its model.json says: half a model helps nobody."""
    if not isinstance(file.content, Path):
        return
    if not file.content.is_file():
        raise damaged(file)
    with file.content.open("rb") as opened:
        if hashlib.file_digest(opened, "sha256").hexdigest() != file.sha256:
            raise damaged(file)


def damaged(file: SiteFile) -> WispError:
    """The refusal of a file that is not what its model.json says."""
    return WispError(
        f"{file.name} is damaged",
        got="no file, or another SHA-256 than model.json says",
        remedy="compile the model again",
    )
