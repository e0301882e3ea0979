"""`wisp transcribe`: recordings into text."""

import argparse
import sys
from pathlib import Path

from ..errors import WispError
from ..lowering.tvm_import import import_tvm
from .chat import find_artifact
from .compile import SOURCES

HELP = "transcribe recordings, on this machine's GPU or CPU"
FORMATS = ("text", "json", "srt", "vtt")


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("files", nargs="+", type=Path, metavar="FILE", help="recordings: WAV, FLAC, Ogg or MP3")
    artifact = f"an artifact's directory or its name in artifacts/; or a source, which is compiled first: {SOURCES}"
    command.add_argument("--model", required=True, metavar="ARTIFACT_OR_SOURCE", help=artifact)
    command.add_argument("--language", metavar="CODE", help="what is spoken: en, de, ... (detected)")
    task = "translate: into English (transcribe)"
    command.add_argument("--task", choices=("transcribe", "translate"), default="transcribe", help=task)
    prompt = "what was said before, as far as the model is told: names, spellings, style"
    command.add_argument("--prompt", default="", metavar="TEXT", help=prompt)
    command.add_argument("--format", choices=FORMATS, default="text", help="json is OpenAI's verbose_json (text)")
    command.add_argument("-o", "--output", type=Path, metavar="DIR", help="a file each, in place of stdout")
    command.add_argument("--variant", metavar="NAME", help="webgpu-f32-sg, webgpu-f32 or wasm-simd (the best one)")


def run(parsed: argparse.Namespace) -> None:
    from ..speech.audio import Recording

    for file in parsed.files:  # before a model is compiled for nothing
        Recording(file).close()
    names = [f"{file.stem}.{'txt' if parsed.format == 'text' else parsed.format}" for file in parsed.files]
    if parsed.output is not None and len(set(names)) < len(names):
        raise WispError("recordings of one name would share a file", got=", ".join(names), remedy="leave -o out")
    artifact = find_artifact(parsed.model)
    import_tvm()
    from ..progress import Terminal
    from ..speech.formats import FORMATS as WRITERS
    from ..speech.model import Wanted, load_model
    from ..speech.transcript import transcribe

    model = load_model(artifact, parsed.variant)
    model.tokens.check(parsed.language, parsed.task)
    print(model.about, file=sys.stderr)
    wanted = Wanted(language=parsed.language, task=parsed.task, prompt=parsed.prompt)
    for file, name in zip(parsed.files, names, strict=True):
        with Recording(file) as recording, Terminal().stage(file.name, round(1000 * recording.seconds)) as advance:
            content = WRITERS[parsed.format](transcribe(model, recording, wanted, advance))
        if parsed.output is None:
            sys.stdout.write(content)
            sys.stdout.flush()
        else:
            _write(parsed.output, name, content)


def _write(directory: Path, name: str, content: str) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(content, encoding="utf-8")
    except OSError as error:
        raise WispError(f"{directory / name} cannot be written", got=error.strerror or str(error)) from error
