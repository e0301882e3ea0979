"""`wisp models`: the recipes that come along."""

import argparse

from compiler.commands.arguments import add_json, print_json
from compiler.lowering.tvm_import import import_tvm

HELP = "list the recipes that come along, and what each costs"


def add_arguments(command: argparse.ArgumentParser) -> None:
    add_json(command)


def run(parsed: argparse.Namespace) -> None:
    import_tvm()
    from compiler.recipes import print_recipes, recipe_paths, recipes_json, summarize_recipe

    summaries = [summarize_recipe(path) for path in recipe_paths()]
    if parsed.json:
        print_json(recipes_json(summaries))
    else:
        print_recipes(summaries)
