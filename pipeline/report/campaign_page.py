"""The page of a campaign: recorded values in, one self-contained HTML text out. No IO but its own template."""

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.drill.campaign_results import CampaignResult, CellResult
from pipeline.drill.confidence import Times
from pipeline.drill.strategies import HEADERS, cells_of
from pipeline.report import drill_words as words


def render_campaign(result: CampaignResult) -> str:
    """Return the page; it loads nothing from elsewhere, and equal results give equal text."""
    environment = Environment(
        loader=PackageLoader("pipeline.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(words=words, held=_held)
    return environment.get_template("campaign.html.j2").render(
        result=result,
        judged=[cell for cell in result.cells if cell.is_judged],
        passed_count=sum(cell.passed for cell in result.cells if cell.is_judged),
        sent=sum(cell.sent for cell in result.cells),
        lost=sum(cell.lost for cell in result.cells if cell.is_judged),
        wrong=sum(cell.wrong for cell in result.cells if cell.is_judged),
        strategy_headers=HEADERS,
        strategies={name: [cells_of(row) for row in rows] for name, rows in result.strategies.items()},
        rows=[(cell, _times(cell)) for cell in result.cells],
    )


def _times(cell: CellResult) -> tuple[str, str, str]:
    times = cell.over_repeats.times
    restored = "not restored" if cell.unrestored else _held(times.get("rto_ms"))
    return restored, _held(times.get("redundancy_ms")), _held(times.get("worst_ms"))


def _held(times: Times | None) -> str:
    """Return a median with its interval where there are plays enough for one; else the worst."""
    if times is None:
        return "–"
    if times.low_ms is None or times.high_ms is None:
        return words.milliseconds(times.worst_ms)
    return f"{words.milliseconds(times.median_ms)} ({times.low_ms:,.0f}–{times.high_ms:,.0f})"
