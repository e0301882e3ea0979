"""Whether a checkpoint gives embeddings, and of which tokens: what sentence-transformers writes beside its config.json.

Knows `modules.json` and the configuration of its pooling module; refuses modules that no kernel stands for.
"""

from pathlib import Path
from typing import Any

from ..errors import WispError
from ..models.base import Pooling
from ..models.fields import shortened
from .files import is_file, read_list, read_object

MODULES_FILE = "modules.json"
POOLING_FILE = "1_Pooling/config.json"
FILES = (MODULES_FILE, POOLING_FILE)
# Of both the former and the present package of these classes. Norms change nothing: embeddings are always normalized.
MODULES = ("Transformer", "Pooling", "Normalize")
MODES: dict[str, Pooling] = {"pooling_mode_lasttoken": "last", "pooling_mode_mean_tokens": "mean"}


def read_pooling(directory: Path) -> Pooling | None:
    """The tokens that an embedding is of; None for checkpoints that are not said to give embeddings.

    Raises WispError for modules and for pooling of other kinds.
    """
    if not is_file(directory / MODULES_FILE):
        return None
    kinds = [_kind(module) for module in read_list(directory / MODULES_FILE)]
    foreign = [kind for kind in kinds if kind not in MODULES]
    if foreign or kinds[:2] != ["Transformer", "Pooling"]:
        raise WispError(
            f"{MODULES_FILE} describes a network that is not supported",
            got=", ".join(kinds) or "no modules",
            expected="Transformer, Pooling, and perhaps Normalize",
            remedy="compile a checkpoint without further modules",
        )
    fields = read_object(directory / POOLING_FILE, directory=directory)
    chosen = [name for name, value in fields.items() if name.startswith("pooling_mode_") and value is True]
    if len(chosen) != 1 or chosen[0] not in MODES:
        raise WispError(
            f"the pooling of {POOLING_FILE} is not supported",
            got=", ".join(chosen) or "none",
            expected=" or ".join(MODES),
            remedy="compile a checkpoint that pools so",
        )
    if fields.get("include_prompt", True) is not True:
        raise WispError(
            f"{POOLING_FILE} include_prompt is not supported",
            got=shortened(fields["include_prompt"]),
            expected="true: an instruction before the text is pooled with it",
        )
    return MODES[chosen[0]]


def _kind(module: Any) -> str:
    """The class of a module, without its package."""
    kind = module.get("type") if isinstance(module, dict) else None
    return kind.rpartition(".")[2] if isinstance(kind, str) else shortened(module)
