from collections.abc import Callable

import pytest

from pipeline.bundle.policy import parse_policy
from pipeline.core.errors import InputError
from pipeline.core.recipe import parse_recipe
from pipeline.registry.promotion_policy import parse_policy as parse_promotion_policy


def bomb(levels: int = 12) -> str:
    """Return a few lines of aliases that stand for 9 ** 12 words."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    last = f"*a{levels - 1}"
    return "\n".join([*lines, *(f"{key}: {last}" for key in ("model", "mode", "state_dir")), f"models: {{b: {last}}}"])


def merged(levels: int = 12) -> str:
    lines = ["a0: &a0 {k: v}"]
    lines += [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, levels)]
    return "\n".join(lines)


ATTACKS = {
    "aliases of aliases": bomb(),
    "aliases of aliases as a key": bomb() + "\n? *a11\n: 1",
    "merges of merges": merged(),
    "deep nesting": "a: " + "[" * 600,
    "a list in itself": "model: &a [*a]",
    "a mapping as its own key": "&a ? *a\n: 1",
    "a number of 5000 digits": "model: " + "9" * 5000,
    "an explicit number": "model: !!float x",
    "an explicit empty number": 'model: !!int ""',
    "an explicit date": "model: !!timestamp noon",
    "an explicit bool": "model: !!bool maybe",
    "a python object": "model: !!python/object/apply:os.system [id]",
    "a character that steers a terminal": '"\\e[31m": 1',
}


@pytest.mark.parametrize(
    "parse", [lambda text: parse_policy(text.encode(), "it"), lambda t: parse_recipe(t, "it"),
              lambda text: parse_promotion_policy(text, "it")], ids=["trust", "recipe", "promotion"]
)  # fmt: skip
@pytest.mark.parametrize("attack", ATTACKS)
def test_yaml_written_to_attack_is_refused_in_few_words(parse: Callable[[str], object], attack: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(ATTACKS[attack])
    told = str(caught.value)
    assert len(told) < 5000
    assert told.replace("\n", "").isprintable()
