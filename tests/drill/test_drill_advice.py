"""Advice comes from where the time went, and names a setting with a figure."""

import re
from dataclasses import replace

import pytest
from played import KILLED, calm, killed, lost, moment, request, script, struck

from pipeline.core.names import Role
from pipeline.drill.advice import advise
from pipeline.drill.measures import measure
from pipeline.drill.nouns import MomentKind, Observed, Outcome
from pipeline.runtime.members import Component

DETECTED = MomentKind.DETECTED


def advice(text: str, observed: Observed) -> str:
    asked = script(text)
    return "\n".join(advise(asked, measure(asked, observed), observed))


def drill(strike: str, pair: str = "", expect: str = "") -> str:
    return f"# r\npair probe_every_ms=100 {pair}\nload constant 100/s for 2s\nat 500ms {strike}\n" + expect


def test_where_nothing_is_to_be_gained_nothing_is_advised() -> None:
    assert advice(drill("kill primary"), killed()).startswith("Nothing to improve")


def test_a_slow_eviction_is_met_with_a_shorter_wait_that_calm_answers_keep() -> None:
    moments = (struck(500), moment(710, DETECTED, Component.ENGINE), moment(712, MomentKind.FAILOVER))
    said = advice(drill("hang primary"), killed(moments=moments))
    found = re.search(r"evict_after_ms=(\d+) instead of 150", said)
    assert found is not None
    assert 75 <= int(found[1]) < 150
    slow = {number: request(number, 60.0) for number in range(40)}
    assert "evict_after_ms" not in advice(drill("hang primary"), killed(moments=moments, requests=slow))


def test_what_canaries_find_is_found_earlier_by_more_of_them() -> None:
    moments = (struck(500), moment(650, DETECTED, Component.WEIGHTS), moment(650, MomentKind.FAILOVER))
    wrong = {number: request(number, 5, Outcome.WRONG) for number in range(51, 60)}
    said = advice(drill("corrupt-weights primary"), killed(moments=moments, requests=wrong))
    assert "probe_every_ms=50" in said
    assert "9 wrong answers were released" in said
    assert "verify=replicas replicas=2" in said


@pytest.mark.parametrize(("tier", "what"), [("warm", "loading the model"), ("cold", "starting a process")])
def test_a_standby_that_had_to_be_loaded_is_kept_hot(tier: str, what: str) -> None:
    slow = {number: request(number, 400 - 10 * (number - 50), role=Role.BACKUP, term=2) for number in range(50, 85)}
    said = advice(drill("kill primary", f"standby={tier}"), killed(requests=slow))
    assert what in said
    assert "standby=hot" in said
    assert "standby=hot" not in advice(drill("kill primary"), killed(requests=slow))


def test_an_outage_behind_a_standby_that_was_not_loaded_asks_for_a_hot_one() -> None:
    moments = (struck(500), moment(505, MomentKind.OUTAGE), moment(600, MomentKind.RESTORED))
    said = advice(drill("kill primary", "standby=warm"), killed(moments=moments))
    assert "standby=hot" in said
    assert "replicas" not in said


def test_what_the_network_lost_is_for_clients_to_ask_again() -> None:
    quiet = Observed("live", tuple((calm() | {50: lost(50)}).values()), (), ((0.0, Role.PRIMARY, 1),))
    said = advice("# r\nload constant 100/s for 2s\nat 500ms dropped for 100ms", quiet)
    assert said.startswith("1 requests were lost on the network")
    assert "\n" not in said


def test_what_lies_unread_is_not_held_against_the_diagnosis() -> None:
    quiet = Observed("live", tuple(calm().values()), (), ((0.0, Role.PRIMARY, 1),))
    assert advice("# r\nload constant 100/s for 2s\nat 500ms disk-full", quiet).startswith("Nothing to improve")


def test_an_outage_asks_for_another_replica() -> None:
    moments = (struck(500), moment(505, MomentKind.OUTAGE), moment(700, MomentKind.RESTORED))
    assert "replicas=2" in advice(drill("kill primary"), killed(moments=moments))
    gone = killed(moments=moments, requests={number: lost(number) for number in range(50, 60)})
    assert "10 requests were lost while nobody served: replicas=3" in advice(drill("kill primary", "replicas=2"), gone)


def test_a_standby_that_stays_away_is_said_with_its_fault() -> None:
    assert "No standby came back (kill -9)" in advice(drill("kill primary"), killed(moments=KILLED[:-1]))


def test_a_hot_standby_beyond_need_is_said_with_its_memory() -> None:
    asked = drill("kill primary", expect="expect rto_ms_max=1000\n")
    said = advice(asked, killed(memory_mb=420.0))
    assert "standby=warm would pass too" in said
    assert "420 MB" in said
    assert "standby=warm" not in advice(drill("kill primary", expect="expect rto_ms_max=150\n"), killed(memory_mb=9.0))
    assert "standby=warm" not in advice(asked, killed())  # of made-up processes no memory is saved


def test_hedges_on_a_healthy_pair_are_too_many() -> None:
    healthy = Observed("live", tuple(calm().values()), (), ((0.0, Role.PRIMARY, 1),), hedged=30)
    text = "# r\nload constant 100/s for 2s"
    assert "15.0% of requests were hedged on a healthy pair: hedge_max_ms=" in advice(text, healthy)
    assert "hedge_max_ms" not in advice(text, replace(healthy, hedged=2))


def test_late_answers_ask_for_earlier_hedges_where_there_was_somebody_to_ask() -> None:
    late = {number: request(number, 150.0, role=Role.BACKUP, term=2) for number in range(50, 60)}
    assert "asks the other side earlier" in advice(drill("stop primary"), killed(requests=late))
    outage = (struck(500), moment(505, MomentKind.OUTAGE), moment(600, MomentKind.RESTORED))
    assert "asks the other side" not in advice(drill("stop primary"), killed(requests=late, moments=outage))


def test_a_wrong_diagnosis_is_told_beside_the_truth() -> None:
    moments = (struck(500), moment(510, DETECTED, Component.RESOURCE), *KILLED[1:3])
    assert "kill -9 was diagnosed as resource, and is process" in advice(drill("kill primary"), killed(moments=moments))


def test_what_was_left_out_is_to_be_played_elsewhere() -> None:
    assert "it needs root" in advice(drill("kill primary"), Observed("live", (), (), (), left_out="it needs root"))
