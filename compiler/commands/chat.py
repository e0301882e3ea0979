"""`wisp chat`: a conversation in the terminal."""

import argparse
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..artifact.state import SAMPLING_RANGES
from ..config import ARTIFACTS, resolve_config
from ..errors import WispError
from ..lowering.tvm_import import import_tvm
from .arguments import positive
from .compile import SOURCES

HELP = "chat in the terminal, on this machine's GPU or CPU"


def _within(name: str) -> Callable[[str], Any]:
    low, high, whole = SAMPLING_RANGES[name]
    kind: Callable[[str], Any] = int if whole else float

    def convert(text: str) -> Any:
        value = kind(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"got {text}, expected {low:g} to {high:g}")
        return value

    convert.__name__ = kind.__name__
    return convert


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"got {text}, expected 0 or more")
    return value


def add_arguments(command: argparse.ArgumentParser) -> None:
    artifact = f"an artifact's directory or its name in artifacts/; or a source, which is compiled first: {SOURCES}"
    command.add_argument("model", metavar="ARTIFACT_OR_SOURCE", help=artifact)
    command.add_argument("--prompt", metavar="TEXT", help="answer this and leave")
    command.add_argument("--system", metavar="TEXT", help="the system prompt")
    own = "(the model's own)"
    temperature = f"0 always takes the likeliest token {own}"
    command.add_argument("--temperature", type=_within("temperature"), metavar="X", help=temperature)
    command.add_argument("--top-p", type=_within("top_p"), metavar="X", help=f"1 is off {own}")
    command.add_argument("--top-k", type=_within("top_k"), metavar="N", help=f"0 is off {own}")
    command.add_argument("--seed", type=int, metavar="N", help="the same seed gives the same answers (-1: drawn)")
    penalty = f"above 1 avoids tokens that were there {own}"
    command.add_argument("--repeat-penalty", type=_within("repetition_penalty"), metavar="X", help=penalty)
    last = "how many of the latest tokens it looks at (all)"
    command.add_argument("--repeat-last-n", type=_count, metavar="N", help=last)
    command.add_argument("--sample-len", type=positive, metavar="N", help="most tokens of an answer (what fits)")
    command.add_argument("--variant", metavar="NAME", help="webgpu-f32-sg, webgpu-f32 or wasm-simd (the best one)")


def run(parsed: argparse.Namespace) -> None:
    if parsed.prompt is not None and not parsed.prompt.strip():
        raise WispError("the prompt is empty", remedy="give a text with --prompt, or leave it out to chat")
    artifact = find_artifact(parsed.model)
    import_tvm()
    from ..chat.model import Request, load_model
    from ..chat.terminal import chat

    request = Request(
        temperature=parsed.temperature,
        top_p=parsed.top_p,
        top_k=parsed.top_k,
        seed=parsed.seed,
        repeat_penalty=parsed.repeat_penalty,
        repeat_last_n=parsed.repeat_last_n,
        sample_len=parsed.sample_len,
    )
    with contextlib.closing(load_model(artifact, parsed.variant)) as model:
        chat(model, request, prompt=parsed.prompt, system=parsed.system)


def find_artifact(model: str) -> Path:
    """A directory that holds an artifact, one of that name in `artifacts/`, or what the source compiles to."""
    for path in (Path(model), ARTIFACTS / model):
        if (path / "model.json").is_file():
            return path
    from ..incremental import build_if_stale
    from ..progress import Terminal

    return build_if_stale(resolve_config(model), Terminal())
