"""The simulated world: every fault is played on the production pair, the same way each time."""

from dataclasses import replace

import pytest

from pipeline.core.names import Role
from pipeline.drill.fault_facts import FACTS
from pipeline.drill.nouns import FaultKind, Load, MomentKind, Observed, Outcome, Script, Strike
from pipeline.drill.script import format_script, parse_script
from pipeline.drill.simulated.explore import broken, explore
from pipeline.drill.simulated.history import violations
from pipeline.drill.simulated.schedules import random_script
from pipeline.drill.simulated.shrinking import shrunk
from pipeline.drill.simulated.world import simulate
from pipeline.runtime.members import Component

LOAD = Load(rate_per_s=120, seconds=0.5)
MUST_END = {FaultKind.CPU_STARVATION, FaultKind.DROPPED, FaultKind.RESET, FaultKind.DESCRIPTORS, FaultKind.EXIT}
COSTLY = {FaultKind.CPU_STARVATION, FaultKind.DROPPED, FaultKind.RESET, FaultKind.SERVER_DEATH}


def drill(*strikes: Strike, load: Load = LOAD, **settings: str) -> Script:
    return Script("a-test", "A rule.", load, strikes, settings=tuple(settings.items()))


def strike(
    fault: FaultKind, at_ms: int = 200, target: Role = Role.PRIMARY, lasts_ms: int | None = None, **amounts: float
) -> Strike:
    aim = target if FACTS[fault].is_aimed else None
    return Strike(at_ms, fault, aim, lasts_ms, tuple(amounts.items()))


def of(observed: Observed, outcome: Outcome) -> list[int]:
    return [one.number for one in observed.requests if one.outcome is outcome]


@pytest.mark.parametrize("fault", FaultKind)
def test_each_fault_keeps_every_promise_and_what_is_at_fault_is_named(fault: FaultKind) -> None:
    facts = FACTS[fault]
    first = strike(fault, lasts_ms=80 if fault in MUST_END else None)
    script = drill(first, strike(FaultKind.KILL, 250)) if facts.is_latent else drill(first)
    observed = simulate(script, 3)
    assert violations(script, observed) == ()
    assert fault in COSTLY or of(observed, Outcome.LOST) == []
    assert next(observed.strikes()).text.startswith(fault)
    named = {one.component for one in observed.moments if one.kind is MomentKind.DETECTED}
    assert named & facts.components or not facts.components
    assert named <= facts.components | facts.may_say | ({Component.PROCESS} if facts.is_latent else set())


def test_the_same_seed_plays_the_same_to_the_last_bit_and_another_seed_does_not() -> None:
    script = random_script(7)
    assert simulate(script, 1) == simulate(script, 1)
    assert simulate(script, 1).requests != simulate(script, 2).requests


def test_a_stale_primary_that_wakes_up_answers_nothing() -> None:
    script = drill(strike(FaultKind.STOP, lasts_ms=300))
    observed = simulate(script, 1)
    served = [role for _, role, _ in observed.serving]
    assert served[:2] == [Role.PRIMARY, Role.BACKUP]
    assert violations(script, observed) == ()


def test_a_killed_server_costs_what_was_in_flight_and_the_next_one_serves_a_higher_term() -> None:
    script = drill(strike(FaultKind.SLOW, 180, ms=100.0), strike(FaultKind.SERVER_DEATH))  # somebody waits just then
    observed = simulate(script, 1)
    assert 0 < len(of(observed, Outcome.LOST)) < 9
    terms = [term for _, role, term in observed.serving if role is not None]
    assert terms == sorted(set(terms))
    assert terms[-1] > 1000


def test_canaries_stop_wrong_answers_and_replicas_release_none() -> None:
    corrupt = strike(FaultKind.CORRUPT_WEIGHTS, 215)
    assert 0 < len(of(simulate(drill(corrupt, load=replace(LOAD, rate_per_s=400)), 1), Outcome.WRONG)) <= 20
    voted = simulate(drill(corrupt, verify="replicas", replicas="2"), 1)
    assert of(voted, Outcome.WRONG) == of(voted, Outcome.LOST) == []


def test_a_random_drill_has_requests_and_faults_enough_and_can_be_written_down() -> None:
    for seed in range(100):
        script = random_script(seed)
        assert len(script.strikes) >= 2
        assert replace(parse_script(format_script(script), script.name), transcript="") == script


def test_random_drills_keep_every_promise() -> None:
    found = explore(range(6))
    assert found.failures == ()
    assert found.requests >= 200 * found.schedules
    assert found.strikes >= 2 * found.schedules


@pytest.mark.slow
def test_hundreds_of_random_drills_keep_every_promise() -> None:
    found = explore(range(100, 250))
    assert found.failures == ()


@pytest.mark.long
def test_thousands_of_random_drills_keep_every_promise() -> None:
    found = explore(range(10_000, 13_000), processes=2)
    assert found.failures == ()


# The checker: each promise, broken by hand.


@pytest.fixture(scope="module")
def played() -> tuple[Script, Observed]:
    script = drill(strike(FaultKind.KILL))
    return script, simulate(script, 1)


def spoiled(observed: Observed, number: int, **changes: object) -> Observed:
    requests = tuple(replace(one, **changes) if one.number == number else one for one in observed.requests)  # type: ignore[arg-type]
    return replace(observed, requests=requests)


def test_a_lost_request_is_seen(played: tuple[Script, Observed]) -> None:
    script, observed = played
    lost = spoiled(observed, 40, outcome=Outcome.LOST, done_ms=None, term=None, problem="no answer by the deadline")
    assert "is lost" in violations(script, lost)[0]


def test_a_wrong_answer_is_seen(played: tuple[Script, Observed]) -> None:
    script, observed = played
    assert "wrong answer" in violations(script, spoiled(observed, 40, outcome=Outcome.WRONG))[0]


def test_an_answer_of_an_old_term_is_seen(played: tuple[Script, Observed]) -> None:
    script, observed = played
    assert "got term 1" in violations(script, spoiled(observed, 45, term=1))[0]


def test_an_answer_of_a_term_that_nobody_served_is_seen(played: tuple[Script, Observed]) -> None:
    script, observed = played
    assert "nobody served" in violations(script, spoiled(observed, 5, term=77))[0]


def test_a_term_that_comes_again_is_seen(played: tuple[Script, Observed]) -> None:
    script, observed = played
    again = replace(observed, serving=(*observed.serving, (490.0, Role.PRIMARY, 1)))
    assert any("serves term 1, after" in one for one in violations(script, again))


def test_a_takeover_that_does_not_come_is_seen(played: tuple[Script, Observed]) -> None:
    script, observed = played
    late = tuple((at + 500 if role is Role.BACKUP else at, role, term) for at, role, term in observed.serving)
    assert any("nobody took over" in one for one in violations(script, replace(observed, serving=late)))


def test_a_fault_that_nobody_notices_is_seen(played: tuple[Script, Observed]) -> None:
    script, observed = played
    quiet = tuple(one for one in observed.moments if one.kind in (MomentKind.STRUCK, MomentKind.OTHER))
    assert any("was not noticed" in one for one in violations(script, replace(observed, moments=quiet)))


def test_a_standby_that_does_not_come_back_is_seen(played: tuple[Script, Observed]) -> None:
    script, observed = played
    gone = tuple(one for one in observed.moments if one.kind is not MomentKind.REDUNDANCY_BACK)
    assert "nobody stands by in the end" in violations(script, replace(observed, moments=gone))


def test_a_standby_that_is_broken_in_its_sleep_is_not_held_against_the_pair() -> None:
    asleep = drill(strike(FaultKind.NAN, 200, Role.BACKUP), strike(FaultKind.KILL, 500), standby="warm")
    assert broken(asleep, 1) == ()
    sound = drill(strike(FaultKind.KILL, 500), standby="warm")
    observed = simulate(sound, 1)
    late = tuple((at + 900 if role is Role.BACKUP else at, role, term) for at, role, term in observed.serving)
    assert any("nobody took over" in one for one in violations(sound, replace(observed, serving=late)))


# Shrinking.


def test_a_drill_that_fails_is_shrunk_to_what_it_needs_and_still_fails() -> None:
    def fails(script: Script) -> bool:
        return any(one.fault is FaultKind.KILL and one.target is Role.PRIMARY for one in script.strikes)

    noisy = drill(strike(FaultKind.DELAYED, 111, ms=30.0), strike(FaultKind.KILL, 317), strike(FaultKind.NAN, 420))
    small = shrunk(noisy, 1, fails)
    assert [one.fault for one in small.strikes] == [FaultKind.KILL]
    assert small.strikes[0].at_ms == 300
    assert small.load.rate_per_s <= 10
    assert fails(parse_script(format_script(small), "small"))


# What random drills found in the runtime.


def test_requests_that_ask_the_same_as_a_suspect_do_not_take_the_standby_down_too() -> None:
    poison = strike(FaultKind.POISON, poison_requests=3.0, every_ms=0.0)
    observed = simulate(drill(poison), 1)
    assert MomentKind.OUTAGE not in {one.kind for one in observed.moments}
    assert {one.outcome for one in observed.requests if one.is_extra} == {Outcome.REFUSED}
    assert of(observed, Outcome.LOST) == []


def test_an_exit_loop_of_every_replica_of_a_role_makes_no_request_poison() -> None:
    observed = simulate(drill(strike(FaultKind.EXIT, lasts_ms=80), replicas="2"), 1)
    assert of(observed, Outcome.REFUSED) == of(observed, Outcome.LOST) == []


def test_in_verify_modes_no_answer_bears_a_term_that_nobody_serves() -> None:
    script = drill(strike(FaultKind.SERVER_DEATH), strike(FaultKind.START_FAILS, 210, Role.BACKUP), verify="pair")
    assert broken(script, 1) == ()


def test_in_verify_modes_a_broken_engine_is_found_before_its_requests_run_out_of_time() -> None:
    script = drill(strike(FaultKind.MALFORMED, 60, lasts_ms=80), verify="pair", probe_every_ms="5000")
    found = [one.at_ms for one in simulate(script, 1).moments if one.kind is MomentKind.DETECTED]
    assert 60 < found[0] < 160
