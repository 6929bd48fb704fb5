"""A family's findings in the form that reports read; pure."""

from collections.abc import Sequence

from pipeline.compress.schemes.calibration import Clipping
from pipeline.compress.schemes.groups import WeightGroup
from pipeline.compress.search.certifying import Certificate, Verdict
from pipeline.compress.search.choosing import Kept
from pipeline.compress.search.exploring import Survey
from pipeline.compress.search.pool import Point
from pipeline.compress.search.proposing import Tried, mixed, schemes_of
from pipeline.compress.search.wording import mends
from pipeline.core.findings import FamilyFinding, FrontPoint, GroupFinding, SchemeCost
from pipeline.core.names import Scheme

_PLACES = 9  # of a divergence; what differs below is the processor's last bits


def family_finding(survey: Survey, certificate: Certificate, kept: Sequence[Kept]) -> FamilyFinding:
    """Return what was found in one float export."""
    family, tried = survey.family, survey.tried
    verdicts = {item.point.build: item for item in certificate.verdicts}
    names = {one.point.build: str(one.name) for one in kept if one.family is family}
    ranges = family.kit.ranges.get(Clipping.NONE, {})
    return FamilyFinding(
        variant=family.export.variant,
        format=family.export.format,
        float_bytes=len(family.export.model),
        measure=family.kit.yardstick.measure,
        groups=tuple(_group(group, tried) for group in family.groups),
        front=tuple(
            _point(survey, point, verdicts.get(point.build), names.get(point.build), certificate)
            for point in certificate.chain
        ),
        ranges={name: (found.low, found.high) for name, found in sorted(ranges.items())},
    )


def _group(group: WeightGroup, tried: Tried) -> GroupFinding:
    costs = []
    for scheme in group.choices:
        figures = tried.get(mixed({group.name: scheme}))
        if figures is not None and figures.refused is None:
            divergence = round(figures.divergence, _PLACES)
            costs.append(SchemeCost(scheme, figures.bytes, divergence, figures.latency_ratio))
    return GroupFinding(group.name, group.kind, group.weight_count, group.weight_bytes, tuple(costs))


def _point(
    survey: Survey, point: Point, verdict: Verdict | None, name: str | None, certificate: Certificate
) -> FrontPoint:
    figures = point.figures
    task = None if verdict is None else verdict.task
    return FrontPoint(
        assignment=schemes_of(point.build, survey.family.groups),
        bytes=figures.bytes,
        bytes_zstd=figures.bytes_zstd or 0,
        predicted_divergence=round(_predicted(survey, point), _PLACES),
        divergence=round(figures.divergence, _PLACES),
        certified=None if verdict is None else verdict.certified,
        loss_abs=None if task is None else task.loss_abs,
        loss_high=None if task is None else task.loss_high,
        latency_ratio=figures.latency_ratio,
        candidate=name,
        words=_words(point, verdict, name, certificate),
    )


def _predicted(survey: Survey, point: Point) -> float:
    alone = (
        survey.tried.get(mixed({group: scheme}))
        for group, scheme in schemes_of(point.build, survey.family.groups).items()
        if scheme is not Scheme.F32
    )
    return sum(figures.divergence for figures in alone if figures is not None)


def _words(point: Point, verdict: Verdict | None, name: str | None, certificate: Certificate) -> str:
    how = mends(point) if point.build.schemes else "the float export"
    if verdict is None:
        return f"{how}; not asked about: {certificate.words or 'a safer file of the sequence failed before it'}"
    if name is not None:
        return f"{how}; kept as {name}"
    if verdict.certified:
        return f"{how}; within the budget, passed over for a better one"
    return f"{how}; {verdict.why or 'its loss may be over the budget'}"
