"""The model that is served in the simulated world: a formula, its bundles, the questions, and the right answers."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.bundle.channel import BundleRef, Channel
from pipeline.bundle.golden import Tolerances
from pipeline.bundle.io_contract import IoContract, OutputRule, TensorContract
from pipeline.bundle.manifest import (
    GOLDEN_FILE,
    TOLERANCES_FILE,
    WARMUP_FILE,
    Engine,
    Entrypoint,
    Manifest,
    Parent,
    RecipeMark,
    Runtime,
    Target,
)
from pipeline.bundle.policy import TrustPolicy
from pipeline.bundle.verify import VerifiedBundle
from pipeline.core.canonical import readable_json, sha256_hex
from pipeline.core.names import Format, Role
from pipeline.core.schema import plain
from pipeline.core.tensors import Array, Tensors, encode_npz
from pipeline.runtime.release import Places

MODEL = "simulated"
INPUT, OUTPUT = "x", "y"
FEATURES = 4
QUESTIONS = 48
POISON = -31415.0
TOLERANCE = 1e-3
_GOLDEN_ROWS = 24
_BACKUP_IS_OFF = 0.002  # the backup is another file: a healthy pair differs by a little
_STALE_IS_OFF = 0.05  # the model of the version before: right once, wrong now
_CORRUPT_FROM = 0.5  # corrupted weights show where the first feature is above this, on a third of the rows
_CORRUPT_BY = 0.15


class SimulatedBundle(VerifiedBundle):
    """What a bundle tells a server. Nobody verified it, and there is nothing in it that could be loaded."""


@dataclass(frozen=True)
class Known:
    """Questions and what the bundle of each role answers to them, each made once: they are told apart by identity."""

    inputs: tuple[Mapping[str, Array], ...]
    poison: Mapping[str, Array]
    answers: Mapping[Role, tuple[Array, ...]]


def formula(role: Role, rows: npt.NDArray[Any], is_stale: bool = False) -> Array:
    """Return a role's right answers, (rows, 1) float32 between 0.1 and 0.7."""
    weights = np.array([0.9, -0.6, 0.3, 0.45], np.float32)
    values = 0.1 + 0.55 / (1 + np.exp(-(rows @ weights)))
    if role is Role.BACKUP:
        values = values + _BACKUP_IS_OFF * np.sin(rows[:, 1])
    if is_stale:
        values = values + _STALE_IS_OFF
    return np.asarray(values.reshape(-1, 1).astype(np.float32))


def corrupted(rows: npt.NDArray[Any], values: npt.NDArray[Any]) -> Array:
    """Return answers of corrupted weights: finite, well-formed, and wrong for some rows."""
    return np.asarray(values + _CORRUPT_BY * (rows[:, :1] > _CORRUPT_FROM).astype(np.float32))


@functools.cache
def known() -> Known:
    """Return questions and answers."""
    rows = np.random.default_rng(5).normal(size=(QUESTIONS, FEATURES)).astype(np.float32)
    poison = rows[:1].copy()
    poison[0, 0] = POISON
    answers = {role: tuple(np.split(formula(role, rows), QUESTIONS)) for role in Role}
    return Known(tuple({INPUT: row} for row in np.split(rows, QUESTIONS)), {INPUT: poison}, answers)


@functools.cache
def bundle_of(role: Role, is_stale: bool = False) -> SimulatedBundle:
    """Return the bundle of a role, or of the version before."""
    rows = np.random.default_rng(6).normal(size=(_GOLDEN_ROWS, FEATURES)).astype(np.float32)
    rows[::3, 0] = 2 * _CORRUPT_FROM + np.abs(rows[::3, 0])  # canaries are chosen for what they can see
    files = {
        WARMUP_FILE: encode_npz({INPUT: rows}),
        GOLDEN_FILE: encode_npz({OUTPUT: formula(role, rows, is_stale)}),
        TOLERANCES_FILE: readable_json(plain(Tolerances(1, {OUTPUT: TOLERANCE}, "by the formula"))),
    }
    model_format, engine = _FORMATS[role]
    name = f"dense.f32{'.onnx' if model_format is Format.ONNX else ''}"
    digest = sha256_hex(b"".join(files.values()))
    manifest = Manifest(
        1, MODEL, name, Entrypoint(model_format, f"model/model.{model_format}", engine), Runtime(engine, ">=1", 1),
        (Target("any", 1),), digest, Parent("dense", digest), RecipeMark(MODEL, digest), "it is a formula", "none",
    )  # fmt: skip
    return SimulatedBundle(digest, MODEL, name, role, manifest, _io(), files, "simulated", (), ())


_FORMATS = {Role.PRIMARY: (Format.ONNX, Engine.ONNXRUNTIME), Role.BACKUP: (Format.TFLITE, Engine.LITERT)}


def _io() -> IoContract:
    inputs = (TensorContract(INPUT, "float32", (-1, FEATURES)),)
    outputs = (TensorContract(OUTPUT, "float32", (-1, 1)),)
    return IoContract(1, inputs, outputs, (OutputRule(OUTPUT, 0.0, 1.0, False, "declared"),), "None.")


def channel_of(seq: int, is_stale: bool = False, not_after: str = "2036-02-01T00:00:00Z") -> Channel:
    """Return the channel that names the bundles."""
    primary, backup = (BundleRef(bundle_of(role, is_stale).bundle_id, 1) for role in Role)
    return Channel(1, MODEL, "stable", 0, seq, "2026-05-31T12:00:00Z", not_after, not_after, primary, backup)


def places() -> Places:
    """Return paths; no such files are."""
    return Places(Path("/simulated/primary"), Path("/simulated/backup"), Path("/simulated/trust.yaml"))


def policy() -> TrustPolicy:
    """Return a policy that pins no key."""
    return TrustPolicy((), (MODEL,), Path("/simulated/state"), None, "stable")


class Formula:
    """Answers as the bundles do, and remembers what it was asked before: canaries come round again and again."""

    def __init__(self) -> None:
        questions = known()
        self._cache: dict[tuple[int, str], tuple[Tensors, Mapping[str, Array] | None]] = {
            (id(inputs), bundle_of(role).bundle_id): (inputs, {OUTPUT: answer})
            for role in Role
            for inputs, answer in zip(questions.inputs, questions.answers[role], strict=True)
        }
        self._of = {
            bundle_of(role, is_stale).bundle_id: (role, is_stale) for role in Role for is_stale in (False, True)
        }

    def answer(self, bundle_id: str, inputs: Tensors) -> Mapping[str, Array] | None:
        """Return what a bundle answers; None: whoever computes this ends."""
        kept = self._cache.get((id(inputs), bundle_id))
        if kept is None:
            rows = inputs[INPUT]
            role, is_stale = self._of[bundle_id]
            kept = inputs, None if (rows == POISON).any() else {OUTPUT: formula(role, rows, is_stale)}
            self._cache[id(inputs), bundle_id] = kept  # with the inputs: an id lives as long as what it names
        return kept[1]


def is_right(question: int, role: Role, outputs: Mapping[str, Array]) -> bool:
    """Tell whether an answer is the role's right one."""
    expected = known().answers[role][question]
    answer = outputs.get(OUTPUT)
    if answer is expected:
        return True
    if answer is None or answer.shape != expected.shape:
        return False
    return bool(np.abs(np.subtract(answer, expected, dtype=np.float64)).max() <= TOLERANCE)
