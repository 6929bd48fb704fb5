"""Two bundles that stand in for each other, by their ids."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Pair:
    """The bundle ids of a primary and its backup."""

    primary: str
    backup: str
