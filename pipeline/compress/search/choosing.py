"""Which certified files are kept and called what; pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.compress.search.certifying import Certificate
from pipeline.compress.search.families import Family
from pipeline.compress.search.pool import Point
from pipeline.compress.search.proposing import Cost
from pipeline.core.names import CandidateName, mixed


@dataclass(frozen=True)
class Kept:
    """A certified file that becomes a candidate, or is one already."""

    name: CandidateName
    family: Family
    point: Point
    is_new: bool


@dataclass(frozen=True)
class _Certified:
    family: Family
    point: Point


def keep(
    certificates: Sequence[Certificate],
    count: int,
    cost: Cost,
    existing: Mapping[str, CandidateName],
    fits: Callable[[Point], bool] = lambda _: True,
) -> tuple[Kept, ...]:
    """Return at most ``count`` files: the best, then the best of every other file format and variant, then the next.

    A file whose bytes are a candidate already (``existing`` maps digests to names) keeps that name; the others are
    numbered in this order. Float files are nobody's find. ``fits`` leaves out what another budget forbids.
    """
    found = [
        _Certified(one.family, point)
        for one in certificates
        for point in one.certified
        if point.build.schemes and fits(point)
    ]
    ranked = sorted(found, key=lambda one: (cost(one.point.figures), one.point.figures.divergence, one.family.words))
    formats = _first_of_each(ranked, lambda one: one.family.export.format)
    variants = _first_of_each(ranked, lambda one: one.family.export.variant)
    chosen = list(dict.fromkeys([*ranked[:1], *formats, *variants, *ranked]))[:count]
    return _named(chosen, existing)


def _first_of_each(ranked: Sequence[_Certified], kind: Callable[[_Certified], str]) -> list[_Certified]:
    found: dict[str, _Certified] = {}
    for one in ranked:
        found.setdefault(kind(one), one)
    return list(found.values())


def _named(chosen: Sequence[_Certified], existing: Mapping[str, CandidateName]) -> tuple[Kept, ...]:
    kept: list[Kept] = []
    number = 0
    for one in chosen:
        known = existing.get(one.point.figures.sha256)
        if known is None:
            number += 1
        export = one.family.export
        name = known or CandidateName(export.variant, mixed(number), export.format)
        kept.append(Kept(name, one.family, one.point, known is None))
    return tuple(kept)
