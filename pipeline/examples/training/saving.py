"""Saves a Keras 2 model so that equal weights give equal bytes: dvc then skips what depends on an unchanged model."""

import io
import json
import zipfile
from pathlib import Path

import tf_keras

from pipeline.core.files import write_atomic

_EPOCH = (1980, 1, 1, 0, 0, 0)
_METADATA = "metadata.json"


def save_reproducibly(model: tf_keras.Model, path: Path) -> None:
    """Write ``model`` in the ``.keras`` format without the date of saving and the archive's times."""
    raw = path.with_name(f"raw-{path.name}")
    model.save(raw, save_format="keras")
    stream = io.BytesIO()
    with zipfile.ZipFile(raw) as source, zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as target:
        for name in sorted(source.namelist()):
            data = source.read(name)
            target.writestr(zipfile.ZipInfo(name, _EPOCH), _undated(data) if name == _METADATA else data)
    raw.unlink()
    write_atomic(path, stream.getvalue())


def _undated(metadata: bytes) -> bytes:
    value = {**json.loads(metadata), "date_saved": "1980-01-01@00:00:00"}
    return json.dumps(value, sort_keys=True).encode("utf-8")
