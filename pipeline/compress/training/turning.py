"""What turning channels takes, whoever reads them: which layers may be turned, where a group's channels lie, roots."""

import numpy as np
import numpy.typing as npt

from pipeline.compress.training.channel_groups import Channels, Group, Ints, Role
from pipeline.compress.training.layer_roles import Floats, has_activation
from pipeline.compress.training.model_graph import Call

Matrix = npt.NDArray[np.float64]

CHANNELS_MAX = 2048  # a decomposition takes their cube
# Channels or directions weaker than this share of the strongest count as so strong, which keeps float32 exact.
_LEAST = 1e-4


def mixes(call: Call) -> bool:
    """Tell whether a layer's output channels are sums of their own that nothing bends."""
    return call.behaviour.linear and call.behaviour.role in (Role.MAKE, Role.LOOK_UP) and not has_activation(call.layer)


def lets_through(call: Call) -> bool:
    """Tell whether a call undoes a mixture in its weights, or treats all channels alike."""
    if call.behaviour.role in (Role.MAKE, Role.READ):
        return call.behaviour.input_axis is not None
    is_carrier = call.behaviour.role in (Role.CARRY, Role.JOIN, Role.RESHAPE)
    return is_carrier and call.behaviour.linear and not has_activation(call.layer)


def touches(tensors: tuple[int, ...], group: Group, channels: Channels) -> bool:
    """Tell whether any of the tensors holds a channel of the group."""
    known = (channels.strands[tensor] for tensor in tensors if tensor in channels.strands)
    return any(bool(np.isin(strands, group.strands).any()) for strands in known)


def tiles_of(tensor: int, group: Group, channels: Channels) -> Ints | None:
    """Return where the group's strands lie in a tensor, (times, strands); None if not all together and in order."""
    strands = channels.strands.get(tensor, np.empty(0, np.int64))
    places = np.flatnonzero(np.isin(strands, group.strands))
    if len(places) % len(group.strands):
        return None
    tiles: Ints = places.reshape(-1, len(group.strands))
    return tiles if bool((strands[tiles] == np.array(group.strands)).all()) else None


def known_tiles_of(tensor: int, group: Group, channels: Channels) -> Ints:
    """Return the same for a tensor that was looked at before."""
    tiles = tiles_of(tensor, group, channels)
    assert tiles is not None  # noqa: S101
    return tiles


def turned(values: Floats, tiles: Ints, turn: Matrix) -> Floats:
    """Mix the channels of the last axis."""
    new = np.array(values, dtype=np.float64)
    new[..., tiles] = new[..., tiles] @ turn
    return new.astype(values.dtype)


def root_of(moments: Matrix) -> tuple[Matrix, Matrix]:
    """Return the symmetric square root of a matrix of moments, and its inverse."""
    values, vectors = np.linalg.eigh(moments)
    values = np.maximum(values, _LEAST * max(float(values[-1]), np.finfo(np.float64).tiny))
    return (vectors * np.sqrt(values)) @ vectors.T, (vectors / np.sqrt(values)) @ vectors.T


def bounded(strengths: Matrix) -> Matrix:
    """Return falling strengths (n,), none of them below a small share of the first."""
    first = float(strengths[0]) if strengths.size else 0.0
    floor: Matrix = np.maximum(strengths, _LEAST * max(first, np.finfo(np.float64).tiny))
    return floor
