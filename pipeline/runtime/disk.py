"""The bundles on disk, verified again and again: what is loaded goes on serving, but a restart would read them."""

import asyncio
from collections.abc import Callable

from pipeline.core.clock import utc_now
from pipeline.core.names import Role
from pipeline.runtime.diagnosis import Evidence, diagnose
from pipeline.runtime.journal import Journal
from pipeline.runtime.members import Fault, Seat
from pipeline.runtime.release import Release, disk_problems


async def watch_disk(release: Release, every_s: float, journal: Journal, repaired: Callable[[], None]) -> None:
    """Note each time a bundle stops to verify, until cancelled; another thread hashes.

    ``repaired`` is called when all verify though one was refused when the release was opened.
    """
    known: dict[Role, str] = {}
    while True:
        await asyncio.sleep(every_s)
        problems = await asyncio.to_thread(disk_problems, release, utc_now())
        for role in problems.keys() - known.keys() - release.refused.keys():
            evidence = Evidence(fault=Fault.TAMPERED, disk_ok=False, errors=(problems[role],))
            journal.note(f"The {role}'s bundle on disk is refused.", diagnose(Seat(role), evidence))
        known = problems
        if release.refused and not problems:
            repaired()
