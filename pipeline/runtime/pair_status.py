"""What people see of a pair, from what the server knows of it."""

from pipeline.bundle.manifest import Engine
from pipeline.core.names import Role
from pipeline.runtime.crew import Worker
from pipeline.runtime.members import MemberState
from pipeline.runtime.pair_nouns import Member, PairState
from pipeline.runtime.release import Release
from pipeline.runtime.service import MemberStatus, ServedModel
from pipeline.runtime.watch import Watch

_PLATFORMS = {Engine.LITERT: "tensorflow_lite", Engine.ONNXRUNTIME: "onnxruntime_onnx"}


def served_models(release: Release) -> dict[bool, ServedModel]:
    """Return a model as clients see it while somebody serves (True), and while nobody does."""
    bundle = release.bundles.get(Role.PRIMARY) or release.bundles[Role.BACKUP]
    platform = _PLATFORMS[bundle.manifest.entrypoint.engine]
    return {ready: ServedModel(release.model, release.version, platform, release.io, ready) for ready in (True, False)}


def member_status(
    release: Release, state: PairState, member: Member, worker: Worker | None, watch: Watch
) -> MemberStatus:
    """Return one member as people see it."""
    seat, bundle = member.seat, release.bundles.get(member.seat.role)
    living = worker if worker is not None and not worker.closing else None
    return MemberStatus(
        seat=seat,
        state=member.state,
        bundle_id="" if bundle is None else bundle.bundle_id,
        candidate="" if bundle is None else bundle.candidate,
        pid=None if living is None else living.pid,
        rss_bytes=None if living is None else watch.rss_bytes(living),
        restarts=max(0, member.incarnation - 1),
        serving=seat.role is state.serving and member.state is MemberState.READY,
    )
