"""The bundles on disk, and what a pair keeps there; verified again and again, as a restart would read them."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from pipeline.core.clock import utc_now
from pipeline.core.errors import Expired
from pipeline.core.names import Role
from pipeline.runtime.diagnosis import Evidence, diagnose
from pipeline.runtime.journal import Journal
from pipeline.runtime.members import Fault, Seat
from pipeline.runtime.release import Places, Release, accept, disk_problems, is_renewed, open_release
from pipeline.runtime.terms import TermsFile, TermsStore, terms_path


class Disk(Protocol):
    """Where bundles come from and what outlives the server, as a port."""

    def open_release(self, places: Places, strict: bool) -> Release:
        """Verify both bundles of a pair; raises what :func:`pipeline.runtime.release.open_release` raises."""

    def problems(self, release: Release) -> dict[Role, str]:
        """Return why a bundle would not be loaded now, by role."""

    def is_renewed(self, release: Release) -> bool:
        """Tell whether another channel than the release's lies there by now, and is accepted."""

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

    def is_renewed(self, release: Release) -> bool:
        """Read policy and channel once more."""
        return is_renewed(release, utc_now())

    def accept(self, release: Release) -> None:
        """Persist the floor."""
        accept(release)

    def terms(self, release: Release) -> TermsStore:
        """Return the file of the pair's terms."""
        return TermsFile(terms_path(release.policy.state_dir, release.model))


class Served(Protocol):
    """What is served, as the watch over the disk sees it."""

    release: Release
    journal: Journal

    @property
    def has_expired(self) -> bool:
        """Tell whether the release's own channel has ended: that is told by itself."""


async def watch_disk(disk: Disk, served: Served, every_s: float, take_in: Callable[[], None]) -> None:
    """Note each time a bundle stops to verify, until cancelled; another thread hashes.

    ``take_in`` is called when all verify though one was refused when the release was opened, and when all verify under
    a renewed channel.
    """
    known: dict[Role, str] = {}
    while True:
        await asyncio.sleep(every_s)
        release = served.release
        problems, is_better = await asyncio.to_thread(_looked, disk, release)
        for role in sorted(problems.keys() - known.keys() - release.refused.keys()):
            if served.has_expired and problems[role].startswith(Expired.__name__):
                continue
            evidence = Evidence(fault=Fault.TAMPERED, disk_ok=False, errors=(problems[role],))
            served.journal.note(f"The {role}'s bundle on disk is refused.", diagnose(Seat(role), evidence))
        known = problems
        if is_better:
            take_in()


def _looked(disk: Disk, release: Release) -> tuple[dict[Role, str], bool]:
    """Return what would not be loaded now and why, and whether what lies there is more than what was opened."""
    problems = disk.problems(release)
    return problems, not problems and (bool(release.refused) or disk.is_renewed(release))
