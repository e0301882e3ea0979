"""Files of a checkpoint or an adapter, which somebody else wrote: read only where they really lie in its directory.

Knows links and paths; nothing of what the files hold. What is read may end in a public artifact, so a link that leads
elsewhere is refused.
"""

import json
import stat
from pathlib import Path
from typing import Any, NoReturn

from ..errors import WispError

GGML = b"lmgg"  # what whisper.cpp's files begin with
REMEDY = "put a copy of the file there"


def is_ggml(file: Path) -> bool:
    """Whether a file begins as whisper.cpp's do."""
    try:
        with file.open("rb") as stream:
            return stream.read(4) == GGML
    except OSError:
        return False


def checked_file(path: Path, directory: Path | None = None) -> Path:
    """The path of a file in its directory, links followed or not. A path that is not there is handed back too.

    `directory` is the checkpoint's where the file lies deeper. Raises WispError for a link out of it, and for what is
    no regular file. The Hub's cache keeps a snapshot as links to `blobs`, two levels up.
    """
    try:
        real, root = path.resolve(), (directory or path.parent).resolve()
        mode = real.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return path
    except (OSError, RuntimeError) as error:  # RuntimeError: a circle of links
        raise WispError(f"{path.name} cannot be read", got=str(error), remedy=REMEDY) from error
    roots = [root, *([root.parent.parent / "blobs"] if root.parent.name == "snapshots" else [])]
    if not any(real.is_relative_to(allowed) for allowed in roots):
        raise WispError(
            f"{path.name} is a link that leads out of the checkpoint",
            got="a file elsewhere",
            expected=f"a file in {root.name}",
            remedy=REMEDY,
        )
    if not stat.S_ISREG(mode):
        raise WispError(f"{path.name} is not a file", got=stat.filemode(mode), expected="a regular file", remedy=REMEDY)
    return path


def is_file(path: Path) -> bool:
    """Whether a file is there. Raises WispError like `checked_file`."""
    return checked_file(path).is_file()


def read_object(
    path: Path, optional: bool = False, strict: bool = False, directory: Path | None = None
) -> dict[str, Any]:
    """A JSON object; an empty one when the file is optional and not there. `strict`: as a browser reads JSON.

    Raises WispError for anything else, and for a link that leads out of the file's directory, or of the one named.
    """
    if optional and not is_file(path):
        return {}
    value = _read_json(path, strict, directory)
    if not isinstance(value, dict):
        raise WispError(f"{path.name} is not usable", got=type(value).__name__, expected="a JSON object")
    return value


def read_list(path: Path) -> list[Any]:
    """A JSON list. Raises WispError like `read_object`."""
    value = _read_json(path)
    if not isinstance(value, list):
        raise WispError(f"{path.name} is not usable", got=type(value).__name__, expected="a JSON list")
    return value


def _read_json(path: Path, strict: bool = False, directory: Path | None = None) -> Any:
    checked_file(path, directory)
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant if strict else None)
    except FileNotFoundError:
        raise WispError(
            f"the checkpoint has no {path.name}",
            got=path.parent,
            expected="a Hugging Face checkpoint",
            remedy=f"give a directory with {path.name}, tokenizer.json and model.safetensors",
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise WispError(f"{path.name} cannot be read", got=str(error), remedy="repair the checkpoint") from error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name}, which is not JSON")


def is_unicode(text: str) -> bool:
    """Whether a text can be written: JSON may hold half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def checked_token_id(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise WispError(f"{where} is not usable", got=repr(value), expected="token ids")
    return value
