"""`wisp models`: the recipes that come along, and what is on this machine."""

import argparse
from pathlib import Path

from ..config import ARTIFACTS
from ..lowering.tvm_import import import_tvm
from .arguments import add_json, print_json

HELP = "list the recipes that come along, local artifacts and the Hub's cache, and what each costs"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--local", action="store_true", help="only what is on this machine")
    artifacts = "where local models are (artifacts)"
    command.add_argument("--artifacts", type=Path, default=ARTIFACTS, metavar="DIR", help=artifacts)
    add_json(command)


def run(parsed: argparse.Namespace) -> None:
    if not parsed.local:
        import_tvm()
        from ..recipes import print_recipes, recipe_paths, recipes_json, summarize_recipe

        summaries = [summarize_recipe(path) for path in recipe_paths()]
        if parsed.json:
            print_json(recipes_json(summaries))
            return
        print_recipes(summaries)
    from ..inventory import artifacts, hub_cache, inventory_json, print_inventory

    stored, cached = artifacts(parsed.artifacts), hub_cache()
    if parsed.json:
        print_json(inventory_json(stored, cached))
    else:
        print_inventory(stored, cached)
