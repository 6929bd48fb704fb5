"""A project whose model a search can work on: dense layers of different worth, float exports in place."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.compress.variants import make_variant
from pipeline.core.recipe import load_recipe

SEARCH = {"minimize": "bytes", "seconds_max": 600, "keep": 3}

Searchable = Callable[..., Path]


@pytest.fixture
def searchable(project: Callable[..., Path]) -> Searchable:
    """Return a function that makes the tiny project with a search in its recipe; returns its folder."""

    def make(**changes: object) -> Path:
        folder = project(**{"search": SEARCH, "schemes": {"tflite": ["f32", "w8"]}, **changes})
        make_variant(load_recipe("tiny"), "dense", print)
        return folder

    return make
