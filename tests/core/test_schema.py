import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.schema import Rule, SchemaProblems, json_schema, plain, read


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Wheel:
    spokes: Annotated[int, Rule("How many.", minimum=1, maximum=64)]
    name: Annotated[str, Rule(pattern=r"[a-z]{1,8}")] = "front"


@dataclass(frozen=True)
class Bicycle:
    wheels: Annotated[tuple[Wheel, ...], Rule("Both.", min_items=1)]
    weight_kg: Annotated[float, Rule(minimum=0)]
    colour: Colour
    kind: Literal["road", "city"] = "city"
    electric: bool = False
    price: Annotated[int | None, Rule(minimum=0)] = None
    parts: dict[Annotated[str, Rule(pattern="[a-z]+")], int] | None = None
    by_colour: dict[Colour, int] | None = None

    def problems(self) -> Iterator[str]:
        if self.electric and self.weight_kg < 5:
            yield "weight_kg: an electric bicycle is heavier"


GOOD = {"wheels": [{"spokes": 32}, {"spokes": 36, "name": "rear"}], "weight_kg": 12, "colour": "red"}

WHEELS = st.builds(Wheel, st.integers(1, 64), st.from_regex(r"[a-z]{1,8}", fullmatch=True))
BICYCLES = st.builds(
    Bicycle,
    st.lists(WHEELS, min_size=1, max_size=3).map(tuple),
    st.floats(5, 1e6),
    st.sampled_from(Colour),
    st.sampled_from(["road", "city"]),
    st.booleans(),
    st.none() | st.integers(0, 2**40),
    st.none() | st.dictionaries(st.from_regex("[a-z]+", fullmatch=True), st.integers()),
    st.none() | st.dictionaries(st.sampled_from(Colour), st.integers()),
)
# Not 1.0 for 1: JSON Schema counts 1.0 as an integer, the reader does not.
SCALARS = st.none() | st.booleans() | st.integers(-3, 99) | st.sampled_from([0.5, -0.5, "red", "road", "x", "A b", ""])
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner), max_leaves=4
)


def problems(value) -> tuple[str, ...]:
    with pytest.raises(SchemaProblems) as caught:
        read(Bicycle, value)
    return caught.value.problems


@given(BICYCLES)
def test_a_value_is_read_back_as_written(value):
    assert read(Bicycle, plain(value)) == value


def test_defaults_fill_what_is_left_out():
    assert read(Bicycle, GOOD) == Bicycle((Wheel(32), Wheel(36, "rear")), 12.0, Colour.RED)


def test_every_problem_is_reported_at_once_with_its_path():
    found = problems(
        {
            "wheels": [{"spokes": 0}, {"spoke": 36}, "round"],
            "weight_kg": "heavy",
            "colour": "green",
            "kind": 3,
            "electric": 1,
            "price": -1,
            "parts": {"Bell": 1, "lamp": 1.5},
            "by_colour": {"pink": 1},
            "bell": True,
        }
    )
    assert sorted(text.split(":")[0] for text in found) == sorted(
        [
            "wheels[0].spokes",
            "wheels[1].spoke",
            "wheels[1].spokes",
            "wheels[2]",
            "weight_kg",
            "colour",
            "kind",
            "electric",
            "price",
            "parts.Bell",
            "parts.lamp",
            "by_colour.pink",
            "bell",
        ]
    )


def test_an_unknown_key_is_refused_with_the_keys_there_are():
    (text,) = problems({**GOOD, "color": "red"})
    assert text.startswith("color: unknown key")
    assert "colour" in text


def test_missing_keys_are_named():
    assert problems({}) == ("wheels: missing", "weight_kg: missing", "colour: missing")


@pytest.mark.parametrize("value", [None, [], "text", 3])
def test_what_is_no_mapping_is_refused(value):
    (text,) = problems(value)
    assert text.startswith("the file: expected a mapping")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("electric", 1),
        ("electric", "true"),
        ("weight_kg", True),
        ("weight_kg", float("nan")),
        ("weight_kg", float("inf")),
        ("price", 1.0),
        ("price", True),
        ("price", "1"),
        ("colour", "RED"),
        ("wheels", []),
        ("wheels", {"spokes": 3}),
        ("parts", [["lamp", 1]]),
        ("parts", {1: 1}),
    ],
)
def test_types_are_not_bent(field, value):
    (text,) = problems({**GOOD, field: value})
    assert text.startswith(field)


@pytest.mark.parametrize("name", ["rear\n", "Rear", "", "waytoolong"])
def test_a_pattern_covers_the_whole_text(name):
    (text,) = problems({**GOOD, "wheels": [{"spokes": 3, "name": name}]})
    assert text.startswith("wheels[0].name")


def test_rules_across_fields_are_checked_once_the_fields_are_right():
    assert problems({**GOOD, "electric": True, "weight_kg": 4}) == ("weight_kg: an electric bicycle is heavier",)


def test_a_long_value_is_shortened_in_the_message():
    for value in ("x" * 10_000, ["\x01" * 10_000]):
        (text,) = problems({**GOOD, "colour": value})
        assert len(text) < 200
    (text,) = problems({**GOOD, "price": -(10**4_000)})
    assert len(text) < 200


@pytest.mark.parametrize("key", ["x" * 1_000_000, "\x01" * 1_000_000], ids=["plain", "control"])
def test_a_long_key_is_shortened_in_the_message(key):
    """A depot's files are read before anybody's signature is: each look of a watching node wrote megabytes of log."""
    (text,) = problems({**GOOD, key: 1})
    (other,) = problems({**GOOD, "parts": {key: "much"}})[-1:]
    assert len(text) < 2000
    assert len(other) < 2000


@pytest.mark.parametrize("number", [10**400, -(10**400)], ids=["above", "below"])
def test_a_number_beyond_all_numbers_is_a_problem(number):
    (text,) = problems({**GOOD, "weight_kg": number})
    assert text.startswith("weight_kg: ")
    assert "not a finite number" in text


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "wheels": st.lists(st.fixed_dictionaries({"spokes": ANYTHING}, optional={"name": ANYTHING}) | ANYTHING),
            "weight_kg": ANYTHING,
            "colour": ANYTHING,
            "kind": ANYTHING,
            "electric": st.just(False) | ANYTHING,
            "price": ANYTHING,
            "parts": ANYTHING,
            "by_colour": ANYTHING,
            "bell": ANYTHING,
        },
    ).map(lambda changes: {**GOOD, **changes})
)
def test_the_json_schema_accepts_what_the_reader_accepts_and_nothing_else(value):
    is_valid = jsonschema.Draft202012Validator(json_schema(Bicycle)).is_valid(value)
    try:
        read(Bicycle, value)
    except SchemaProblems as error:
        if not all("electric bicycle" in text for text in error.problems):  # a rule that JSON Schema cannot say
            assert not is_valid, error.problems
    else:
        assert is_valid


@given(ANYTHING)
def test_reading_never_fails_in_another_way(value):
    try:
        read(Bicycle, value)
    except SchemaProblems as error:
        assert error.problems


def test_the_json_schema_is_valid_and_carries_the_sentences_for_editors():
    schema = json_schema(Bicycle)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["properties"]["wheels"]["items"]["properties"]["spokes"]["description"] == "How many."
    assert schema["properties"]["wheels"]["description"] == "Both."


@dataclass(frozen=True)
class Route:
    stops: tuple[tuple[float, Colour | None, int], ...]


def test_a_tuple_of_fixed_length_holds_each_its_own_type():
    route = Route(((0.5, Colour.RED, 1), (2.0, None, 2)))
    assert read(Route, plain(route)) == route
    jsonschema.validate(plain(route), json_schema(Route))
    with pytest.raises(SchemaProblems) as caught:
        read(Route, {"stops": [[0.5, "red"], [1, "green", "x"]]})
    assert caught.value.problems == (
        "stops[0]: expected 3 item(s), found 2",
        "stops[1][1]: 'green' is not one of red, blue",
        "stops[1][2]: expected a whole number, found 'x'",
    )
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"stops": [[0.5, "red"]]}, json_schema(Route))


@dataclass(frozen=True)
class Trip:
    minutes: float | None
    to: str


def test_what_is_written_without_a_value_that_is_none_is_read_back():
    assert read(Trip, plain(Trip(None, "sea"))) == Trip(None, "sea")
    jsonschema.validate({"to": "sea"}, json_schema(Trip))
    assert problems_of(Trip, {"minutes": 3}) == ("to: missing",)


def problems_of(cls, value) -> tuple[str, ...]:
    with pytest.raises(SchemaProblems) as caught:
        read(cls, value)
    return caught.value.problems
