"""What an update does: one step of logistic regression on the last dense unit, the same bytes wherever it is replayed.

The layers below are frozen, so an update in the log holds what they answered: replaying needs no engine, and no row of
anybody's data is in the log. Sums are exact before they are rounded (``math.fsum``), the rest is IEEE arithmetic number
by number; the exponential is the C library's. The state is rounded to float32 after every update, so that replaying
from a checkpoint gives the bytes that replaying from the start gives.
"""

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.bundle.learning import Learning, Span
from pipeline.core.errors import DataError, Malformed

ID_BYTES = 16
_HEAD = struct.Struct(f"<{ID_BYTES}sf")
_FLOAT = np.dtype("<f4")

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Head:
    """The weights of the last dense unit, little-endian float32, and its bias: the state that updates change."""

    weights: bytes
    bias: bytes


@dataclass(frozen=True)
class Update:
    """One update: who it is (sent again, it counts once), the label, and what the frozen layers answer."""

    id: bytes
    label: float
    activations: Floats


def update_bytes(learning: Learning) -> int:
    """Return how long an update is in the log."""
    return _HEAD.size + 4 * learning.weights.count


def encode_update(update: Update) -> bytes:
    """Return an update as it stands in the log."""
    return _HEAD.pack(update.id, update.label) + update.activations.astype(_FLOAT).tobytes()


def decode_update(payload: bytes, learning: Learning) -> Update:
    """Read an update from the log; raises Malformed."""
    if len(payload) != update_bytes(learning):
        raise Malformed(f"An update has {len(payload)} bytes, which does not fit {learning.weights.count} activations.")
    identity, label = _HEAD.unpack_from(payload)
    activations = np.frombuffer(payload, _FLOAT, offset=_HEAD.size)
    if not 0 <= label <= 1 or not np.isfinite(activations).all():
        raise Malformed("An update's label is not within 0 and 1, or its activations are not finite.")
    return Update(identity, label, activations)


def admit(identity: bytes, label: float, activations: Floats, learning: Learning) -> bytes:
    """Return a sender's update as the log holds it; raises DataError when it is none."""
    if len(identity) != ID_BYTES or not 0 <= label <= 1 or activations.shape != (learning.weights.count,):
        raise DataError(f"An update needs an id of {ID_BYTES} bytes, a label within 0 and 1, and one row.")
    if not np.isfinite(activations).all():
        raise DataError("The model answers the update's row with NaN or infinity inside; correct the row.")
    return encode_update(Update(identity, label, activations))


def read_head(model: bytes, learning: Learning) -> Head:
    """Return the state that a model file holds."""
    return Head(_cut(model, learning.weights), _cut(model, learning.bias))


def with_head(model: bytes, learning: Learning, head: Head) -> bytes:
    """Return the model file with another state, and nothing else changed."""
    for span, data in ((learning.weights, head.weights), (learning.bias, head.bias)):
        model = model[: span.start] + data + model[span.end :]
    return model


def _cut(model: bytes, span: Span) -> bytes:
    return model[span.start : span.end]


def learn(head: Head, update: Update, learning: Learning) -> Head:
    """Return the state after one update: w - rate * ((p - y) h + decay w), float64 inside, float32 out."""
    weights = np.frombuffer(head.weights, _FLOAT).astype(np.float64)
    bias = float(np.frombuffer(head.bias, _FLOAT)[0])
    inputs = update.activations.astype(np.float64)
    error = _sigmoid(math.fsum([*(weights * inputs).tolist(), bias])) - update.label
    weights = weights - learning.rate * (error * inputs + learning.decay * weights)
    return Head(_kept(weights, learning), _kept(np.array([bias - learning.rate * error]), learning))


def replay(head: Head, payloads: Iterable[bytes], learning: Learning) -> Head:
    """Return the state after all updates of a log; raises Malformed."""
    for payload in payloads:
        head = learn(head, decode_update(payload, learning), learning)
    return head


def _sigmoid(value: float) -> float:
    if value >= 0:
        return 1 / (1 + math.exp(-value))
    grown = math.exp(max(value, -700.0))
    return grown / (1 + grown)


def _kept(values: npt.NDArray[np.float64], learning: Learning) -> bytes:
    return np.clip(values, -learning.weight_max, learning.weight_max).astype(_FLOAT).tobytes()
