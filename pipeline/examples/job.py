"""What the command hands to a training process, and where both find the files: JSON in, files out."""

from dataclasses import dataclass
from pathlib import Path

MODEL_FILE = "model.keras"
SCORES_FILE = "scores.npz"


@dataclass(frozen=True)
class Job:
    """One training run: reads ``<splits>/*.npz``, writes ``MODEL_FILE`` and ``SCORES_FILE`` into ``out``.

    ``SCORES_FILE`` holds the trained model's outputs (n,) on ``validation`` and ``test``.
    """

    example: str
    seed: int
    splits: str
    out: str
    show_progress: bool

    def split(self, name: str) -> Path:
        """Return the path of one split."""
        return Path(self.splits) / f"{name}.npz"
