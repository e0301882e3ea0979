"""`wisp compile`: a checkpoint into an artifact."""

import argparse
from pathlib import Path

from ..config import DEFAULT_SCALES, resolve_config
from ..target.variants import VARIANTS
from ..weights.choice import AUTO, DEFAULT_QUANTIZATION
from ..weights.scales import RULES
from ..weights.schemes import SCHEMES
from .arguments import names, positive

HELP = "compile a checkpoint into an artifact"
SOURCES = "recipe.toml, its name if it comes along, a Hub id org/name[/FILE.gguf][@revision], a directory or GGUF file"
QUANTIZATION_HELP = (
    f"{AUTO} (what the source has quantized is kept, floats become {DEFAULT_QUANTIZATION}) | {' | '.join(SCHEMES)}"
)


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("source", metavar="SOURCE", help=SOURCES)
    command.add_argument("-o", "--output", type=Path, metavar="DIR", help="the artifact's directory (artifacts/<id>)")
    command.add_argument("--quant", metavar="SCHEME", help=QUANTIZATION_HELP)
    command.add_argument("--context", type=positive, metavar="N", help="most tokens of a conversation (up to 4096)")
    command.add_argument("--variants", type=names, metavar="A,B", help=f"some of {', '.join(VARIANTS)} (all)")
    kept = "keys and values: f16 | q8, 8 bits | auto, f16, and variants with q8 beside them where the cache is large"
    command.add_argument("--kv", metavar="TYPE", help=f"{kept} (auto)")
    command.add_argument("--name", metavar="ID", help="the model's id (the source's name)")
    command.add_argument("--revision", metavar="REV", help="branch, tag or commit on the Hub")
    command.add_argument("--weights", choices=("full", "none"), default="full", help="none: plans and kernels only")
    command.add_argument(
        "--mlc-shards", action="store_true", help="never split a tensor, so that MLC's tools can read it"
    )
    command.add_argument("--lora", type=Path, metavar="DIR", help="merge a PEFT adapter into the weights")
    command.add_argument("--scales", metavar="RULE", help=f"{' | '.join(RULES)} ({DEFAULT_SCALES})")
    command.add_argument(
        "--calibration", type=Path, metavar="FILE", help="weigh errors by the activations on this text (runs the model)"
    )
    ignored = "compile although config.json has this field, which Wisp does not know (can be given again)"
    command.add_argument("--ignore-field", action="append", default=[], metavar="NAME", help=ignored)
    command.add_argument("--force", action="store_true", help="compile even when nothing has changed")
    command.add_argument("--dump", type=Path, metavar="DIR", help="write the program after each pass, WGSL and plan")


def run(parsed: argparse.Namespace) -> None:
    from ..incremental import build_if_stale
    from ..progress import Terminal

    config = resolve_config(
        parsed.source,
        revision=parsed.revision,
        output=parsed.output,
        identifier=parsed.name,
        quantization=parsed.quant,
        context=parsed.context,
        variants=parsed.variants,
        kv=parsed.kv,
        weights=parsed.weights,
        mlc_shards=parsed.mlc_shards,
        lora=parsed.lora,
        dump=parsed.dump,
        scales=parsed.scales,
        calibration=parsed.calibration,
        ignore_fields=parsed.ignore_field,
    )
    build_if_stale(config, Terminal(), force=parsed.force)
