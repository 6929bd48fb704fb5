"""All that measuring the files of one float export takes, in one parcel that any process can open."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.compress.schemes.calibration import Clipping, Range, Ranges
from pipeline.compress.search.divergence import Yardstick
from pipeline.core.canonical import canonical_json
from pipeline.core.errors import InternalError
from pipeline.core.findings import Measure
from pipeline.core.names import Format
from pipeline.core.schema import plain, read
from pipeline.core.tensors import Array, Tensors, decode_npz, encode_npz

_MODEL, _ABOUT = "model", "about"


@dataclass(frozen=True, eq=False)
class Kit:
    """All that measuring files of one export takes."""

    format: Format
    prepared: bytes
    rows: Tensors
    answers: Tensors  # of the float export, to these rows
    yardstick: Yardstick
    ranges: Mapping[Clipping, Ranges]
    latency_rows: int


@dataclass(frozen=True)
class _About:
    format: Format
    measure: Measure
    logits: bool
    ranges: dict[Clipping, dict[str, tuple[float, ...]]]
    latency_rows: int


def encode_kit(kit: Kit) -> bytes:
    """Encode a kit as an npz; equal kits give equal bytes."""
    ranges: dict[Clipping, dict[str, tuple[float, ...]]] = {
        clip: {name: (found.low, found.high) for name, found in r.items()} for clip, r in kit.ranges.items()
    }
    about = _About(kit.format, kit.yardstick.measure, kit.yardstick.logits, ranges, kit.latency_rows)
    arrays: dict[str, Array] = {
        _MODEL: np.frombuffer(kit.prepared, np.uint8),
        _ABOUT: np.frombuffer(canonical_json(plain(about)), np.uint8),
    }
    arrays.update({f"row:{name}": array for name, array in kit.rows.items()})
    arrays.update({f"answer:{name}": array for name, array in kit.answers.items()})
    return encode_npz(arrays)


def decode_kit(data: bytes) -> Kit:
    """Read what :func:`encode_kit` wrote."""
    arrays = decode_npz(data, "A search's kit", InternalError)
    about = read(_About, json.loads(arrays[_ABOUT].tobytes()))
    return Kit(
        format=about.format,
        prepared=arrays[_MODEL].tobytes(),
        rows=_named(arrays, "row:"),
        answers=_named(arrays, "answer:"),
        yardstick=Yardstick(about.measure, about.logits),
        ranges={clip: {name: Range(*ends) for name, ends in r.items()} for clip, r in about.ranges.items()},
        latency_rows=about.latency_rows,
    )


def _named(arrays: Tensors, prefix: str) -> dict[str, Array]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
