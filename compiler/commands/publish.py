"""`wisp publish`: the site to object storage or a directory, an artifact to the Hub."""

import argparse
from pathlib import Path

from ..config import ARTIFACTS
from ..errors import WispError
from ..sources.hub import is_hub_id

HELP = "send the page and its models to object storage, or a model to the Hub"
HUB = "hf://"


def add_arguments(command: argparse.ArgumentParser) -> None:
    targets = "s3://bucket/path, gs://..., abfs://..., file:///directory; or hf://org/name for one model"
    command.add_argument("target", metavar="TARGET", help=targets)
    artifacts = "where the models are (artifacts)"
    command.add_argument("--artifacts", type=Path, default=ARTIFACTS, metavar="DIR", help=artifacts)
    command.add_argument("--model", action="append", default=[], metavar="ID", help="only this one (again: several)")
    parity = "of hf://: a report of `wisp check --json`, for the model's card"
    command.add_argument("--parity", type=Path, metavar="FILE", help=parity)


def run(parsed: argparse.Namespace) -> None:
    from ..progress import Terminal
    from ..site.files import artifact_directory
    from ..site.hub import publish_to_hub
    from ..site.publish import publish

    if not parsed.target.startswith(HUB):
        if parsed.parity is not None:
            raise WispError("--parity is for a model's card on the Hub", got=parsed.target, expected="hf://org/name")
        publish(parsed.artifacts, parsed.target, Terminal(), models=parsed.model)
        return
    repo = parsed.target.removeprefix(HUB)
    if not is_hub_id(repo):
        raise WispError("the target is no repository", got=parsed.target, expected="hf://org/name")
    if len(parsed.model) != 1:
        raise WispError("a repository holds one model", got=", ".join(parsed.model) or None, expected="--model ID")
    publish_to_hub(artifact_directory(parsed.artifacts, parsed.model[0]), repo, Terminal(), parity=parsed.parity)
