"""What makes two fine-tuning jobs equal: a checkpoint of one serves the other, and no other job's does."""

from pathlib import Path

from pipeline.compress.job import Job
from pipeline.core.canonical import canonical_json, sha256_file, sha256_hex
from pipeline.core.files import disk_errors
from pipeline.core.schema import plain


def digest_of(job: Job, made_by: str) -> str:
    """Return the digest of the settings, the model's bytes, the libraries, and the size and date of the data files."""
    settings = {key: value for key, value in plain(job).items() if key not in ("out", "state", "formats")}
    return sha256_hex(
        canonical_json(
            {
                "settings": settings,
                "made_by": made_by,
                "source": _source_digest(Path(job.source)),
                "data": [_stamp(Path(job.train)), _stamp(Path(job.validation))],
            }
        )
    )


def _source_digest(path: Path) -> list[list[str]]:
    files = sorted(item for item in path.rglob("*") if item.is_file()) if path.is_dir() else [path]
    with disk_errors(path):
        return [[str(item.relative_to(path)), sha256_file(item)] for item in files]


def _stamp(path: Path) -> list[int]:
    with disk_errors(path):
        found = path.stat()
    return [found.st_size, found.st_mtime_ns]
