"""The flow of a drill, and the way that was taken through it."""

import re

from played import KILLED, calm, killed, lost, moment, script, struck

from pipeline.core.names import Role
from pipeline.drill.flow import PLACES, flow_chart
from pipeline.drill.nouns import MomentKind, Observed

START = [("training", "preparation"), ("preparation", "deploy"), ("deploy", "service")]


def way(observed: Observed) -> list[tuple[str, str]]:
    return [(step.source, step.target) for step in flow_chart(script(), observed).taken]


def test_a_failover_goes_by_the_standby_back_to_service() -> None:
    assert way(killed()) == [
        *START, ("service", "drill"), ("drill", "switch"), ("switch", "restored"), ("restored", "recovery"),
        ("recovery", "service"),
    ]  # fmt: skip


def test_the_way_carries_its_times() -> None:
    taken = {(step.source, step.target): step.took_ms for step in flow_chart(script(), killed()).taken}
    assert taken["drill", "switch"] == 5.0
    assert taken["recovery", "service"] == 100.0
    assert '"noticed, 5 ms"' in flow_chart(script(), killed()).mermaid


def test_what_needs_no_switch_goes_straight_back() -> None:
    quiet = Observed("live", tuple(calm().values()), (), ((0.0, Role.PRIMARY, 1),))
    assert way(quiet) == [*START, ("service", "drill"), ("drill", "service")]


def test_an_outage_goes_by_troubleshooting() -> None:
    outage = (struck(500), moment(505, MomentKind.OUTAGE), moment(700, MomentKind.RESTORED))
    assert ("switch", "troubleshooting") in way(killed(moments=outage))
    assert ("troubleshooting", "recovery") in way(killed(moments=outage))
    assert ("switch", "restored") not in way(killed(moments=outage))
    assert '"restarted, 195 ms"' in flow_chart(script(), killed(moments=outage)).mermaid


def test_a_service_that_stays_away_ends_in_troubleshooting() -> None:
    gone = killed(requests={number: lost(number) for number in range(50, 200)}, moments=KILLED[:4])
    assert way(gone)[-1] == ("switch", "troubleshooting")


def test_the_chart_holds_every_step_thick_where_taken() -> None:
    flow = flow_chart(script(), killed())
    lines = flow.mermaid.split("\n")
    assert lines[0] == "flowchart TD"
    arrows = [re.fullmatch(r'    (\w+) (==>|-\.->)(?:\|"[^"]*"\|)? (\w+)', line) for line in lines[1 + len(PLACES) :]]
    assert all(arrows)
    assert len(arrows) == len(flow.steps)
    thick = [(one[1], one[3]) for one in arrows if one and one[2] == "==>"]
    assert thick == [(step.source, step.target) for step in flow.taken]
    assert 'drill["drill: kill -9 (primary) at 500 ms"]' in flow.mermaid


def test_what_was_not_played_took_no_way() -> None:
    assert flow_chart(script(), Observed("live", (), (), (), left_out="it needs root")).taken == ()
