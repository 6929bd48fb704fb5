"""Time as a value: decisions take it as an argument, only the edge asks for it."""

from datetime import UTC, datetime


def utc_now() -> datetime:
    """Return the machine's time, timezone-aware, in UTC."""
    return datetime.now(UTC)


def to_text(moment: datetime) -> str:
    """Write a UTC time as ``2026-01-31T12:00:00Z`` (RFC 3339, whole seconds)."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def from_text(text: str) -> datetime:
    """Read a time written by :func:`to_text`; raises ValueError for any other form."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
