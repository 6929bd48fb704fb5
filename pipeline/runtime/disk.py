"""The bundles on disk, and what a pair keeps there; verified again and again, as a restart would read them."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from pipeline.core.clock import utc_now
from pipeline.core.names import Role
from pipeline.runtime.diagnosis import Evidence, diagnose
from pipeline.runtime.journal import Journal
from pipeline.runtime.members import Fault, Seat
from pipeline.runtime.release import Places, Release, accept, disk_problems, open_release
from pipeline.runtime.terms import TermsFile, TermsStore, terms_path


class Disk(Protocol):
    """Where bundles come from and what outlives the server, as a port."""

    def open_release(self, places: Places, strict: bool) -> Release:
        """Verify both bundles of a pair; raises what :func:`pipeline.runtime.release.open_release` raises."""

    def problems(self, release: Release) -> dict[Role, str]:
        """Return why a bundle would not be loaded now, by role."""

    def accept(self, release: Release) -> None:
        """Persist the floor that the release's channel sets; raises HotspareError when that cannot be."""

    def terms(self, release: Release) -> TermsStore:
        """Return where the pair's terms are kept."""


class NodeDisk:
    """The real disk."""

    def open_release(self, places: Places, strict: bool) -> Release:
        """Verify both bundles of a pair, now."""
        return open_release(places, utc_now(), strict)

    def problems(self, release: Release) -> dict[Role, str]:
        """Verify policy, channel and bundles once more, as a start does."""
        return disk_problems(release, utc_now())

    def accept(self, release: Release) -> None:
        """Persist the floor."""
        accept(release)

    def terms(self, release: Release) -> TermsStore:
        """Return the file of the pair's terms."""
        return TermsFile(terms_path(release.policy.state_dir, release.model))


async def watch_disk(
    disk: Disk, release: Release, every_s: float, journal: Journal, repaired: Callable[[], None]
) -> None:
    """Note each time a bundle stops to verify, until cancelled; another thread hashes.

    ``repaired`` is called when all verify though one was refused when the release was opened.
    """
    known: dict[Role, str] = {}
    while True:
        await asyncio.sleep(every_s)
        problems = await asyncio.to_thread(disk.problems, release)
        for role in sorted(problems.keys() - known.keys() - release.refused.keys()):
            evidence = Evidence(fault=Fault.TAMPERED, disk_ok=False, errors=(problems[role],))
            journal.note(f"The {role}'s bundle on disk is refused.", diagnose(Seat(role), evidence))
        known = problems
        if release.refused and not problems:
            repaired()
