"""The folder of a release: archives, attestations beside them, the lock, the note, and the sums of all."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.bundle.channel import CHANNEL_FILE, CHANNEL_SIGNATURE, Channel
from pipeline.bundle.provenance import LOCK, PROVENANCE_FILE, ProvenanceStatement
from pipeline.bundle.reading import read_small
from pipeline.bundle.verify import verify_bundle
from pipeline.commands.build.release_pair import ReadyPair, Signer
from pipeline.core import layout
from pipeline.core.canonical import sha256_file
from pipeline.core.clock import utc_now
from pipeline.core.errors import Tampered
from pipeline.core.files import read_bytes, write_atomic
from pipeline.core.names import Role
from pipeline.core.records import read_record
from pipeline.delivery.depot import DRILL_FILE
from pipeline.report.release_note import ModelNote, Shipped, release_note
from pipeline.score.scorecard import Scorecard, card_file
from pipeline.score.selection import SELECTION_FILE, Selected
from pipeline.seal.archive import SUFFIX, read_archive, write_archive
from pipeline.seal.attestation import sign_provenance
from pipeline.seal.second_opinion import require_second_opinion

NOTE_FILE = "RELEASE.md"
SUMS_FILE = "SHA256SUMS"
ATTESTATIONS = "attestations"
_ID_DIGITS = 12


@dataclass(frozen=True)
class Archived:
    """One bundle's archive in the release."""

    model: str
    role: Role
    bundle_id: str
    file: str
    bytes: int
    sha256: str


def archive_pair(
    pair: ReadyPair, origins: Mapping[Role, ProvenanceStatement], signer: Signer, folder: Path, scratch: Path
) -> tuple[Archived, ...]:
    """Write both bundles with what is attested of them, then unpack what was written and verify that.

    Raises the Untrusted error that fits when what was written does not verify.
    """
    return tuple(_archive(pair, role, origins[role], signer, folder, scratch) for role in Role)


def _archive(
    pair: ReadyPair, role: Role, origin: ProvenanceStatement, signer: Signer, folder: Path, scratch: Path
) -> Archived:
    stem = f"{pair.recipe.model}-{role}-{origin.bundle_id[:_ID_DIGITS]}"
    staged = scratch / "staged" / stem
    shutil.copytree(pair.places[role], staged)
    provenance = sign_provenance(origin, signer.key, signer.trust)
    attested = {PROVENANCE_FILE: provenance, **({DRILL_FILE: pair.drill[1]} if pair.drill else {})}
    for name, data in attested.items():
        write_atomic(staged / ATTESTATIONS / name, data)
    write_atomic(folder / f"{stem}.{PROVENANCE_FILE}", provenance)
    place = folder / f"{stem}{SUFFIX}"
    write_archive(staged, place)
    _read_back(place, origin.bundle_id, signer, scratch / "read" / stem)
    return Archived(
        pair.recipe.model, role, origin.bundle_id, place.name, place.stat().st_size, sha256_file(place)
    )  # fmt: skip


def _read_back(place: Path, bundle_id: str, signer: Signer, into: Path) -> None:
    into.mkdir(parents=True)
    top = read_archive(place, into)
    if verify_bundle(top, signer.trust, utc_now()).bundle_id != bundle_id:
        raise Tampered(f"{place} holds another bundle than {bundle_id}; release again.")
    require_second_opinion(top, signer.key.public_key())


def archive_channel(model: str, folder: Path, scratch: Path) -> None:
    """Write the channel in force as ``<model>-channel.tar.zst``: a folder that ``--channel`` takes."""
    staged = scratch / "staged" / f"{model}-channel"
    for name in (CHANNEL_FILE, CHANNEL_SIGNATURE):
        write_atomic(staged / name, read_small(layout.channel_dir(model) / name))
    write_archive(staged, folder / f"{staged.name}{SUFFIX}")


def names_pair(channel: Channel | None, pair: ReadyPair) -> bool:
    """Tell whether a channel names exactly this pair."""
    return channel is not None and all(channel.ref(role).bundle_id == pair.bundles[role].bundle_id for role in Role)


def note_of(
    pair: ReadyPair,
    archived: Sequence[Archived],
    origins: Mapping[Role, ProvenanceStatement],
    channel: Channel | None,
) -> ModelNote:
    """Gather what the release's note says of one model; a channel of another pair is not told."""
    recipe = pair.recipe
    selected = read_record(Selected, layout.selection_dir(recipe.model) / SELECTION_FILE, f"select {recipe.model}")
    shipped = tuple(
        Shipped(
            role=one.role,
            bundle_id=one.bundle_id,
            archive=one.file,
            archive_bytes=one.bytes,
            card=_card(recipe.model, pair.bundles[one.role].candidate),
            locked_test=selected.locked_test[one.role],
            origin=origins[one.role],
        )
        for one in archived
    )
    told = channel if names_pair(channel, pair) else None
    drill = None if pair.drill is None else pair.drill[0]
    return ModelNote(recipe.model, recipe.about.title, recipe.budgets.loss_max_abs, shipped, drill, told)


def _card(model: str, candidate: str) -> Scorecard:
    return read_record(Scorecard, layout.scorecards_dir(model) / card_file(candidate), f"score {model}")


def finish(folder: Path, notes: Sequence[ModelNote], rehearsal: str | None) -> None:
    """Write the lock and the note, then the sums of everything."""
    write_atomic(folder / LOCK, read_bytes(Path(LOCK)))
    write_atomic(folder / NOTE_FILE, release_note(notes, rehearsal).encode("utf-8"))
    sums = [f"{sha256_file(path)}  {path.name}\n" for path in sorted(folder.iterdir())]
    write_atomic(folder / SUMS_FILE, "".join(sums).encode("ascii"))
