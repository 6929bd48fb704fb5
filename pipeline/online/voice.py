"""What a member says on stderr, and how it stops: with one line that says why."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pipeline.core.errors import HotspareError
from pipeline.runtime.journal import log_line


@dataclass(frozen=True)
class Voice:
    """Whose words they are."""

    model: str
    seat: int

    def say(self, event: str, **about: object) -> None:
        """Write a line about something that happened."""
        log_line({"model": self.model, "seat": self.seat, "event": event, **about})

    @contextmanager
    def stopping(self, on: type[HotspareError] = HotspareError) -> Iterator[None]:
        """End the process where the block fails so: nothing more may be said or done after it."""
        try:
            yield
        except on as error:
            self.say("stopped", reason=str(error))
            raise SystemExit(error.exit_code) from error
