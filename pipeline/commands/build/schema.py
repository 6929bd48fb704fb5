"""``hotspare schema``: print the JSON schema of recipes, for editors (kept in ``recipes/recipe.schema.json``)."""

import argparse

from pipeline.core.canonical import readable_json
from pipeline.core.recipe import Recipe
from pipeline.core.schema import json_schema

EXAMPLE = "hotspare schema > recipes/recipe.schema.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments: ``--json`` changes nothing, what it prints is JSON."""
    parser.add_argument("--json", action="store_true", help="print JSON (always so)")


def run(_: argparse.Namespace) -> int:
    """Print the schema on standard output."""
    print(schema_text(), end="")
    return 0


def schema_text() -> str:
    """Return the schema as sorted, indented JSON with a final newline."""
    return readable_json(json_schema(Recipe)).decode("utf-8")
