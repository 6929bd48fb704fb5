"""Where a play takes place: the running server, and what was made around it for the faults of its script."""

from dataclasses import dataclass, field
from pathlib import Path

from pipeline.core.names import Role
from pipeline.drill.live.judging import Questions
from pipeline.drill.live.launching import Hotspare
from pipeline.drill.live.releases import Copied
from pipeline.drill.live.resources import Dependency
from pipeline.drill.live.toxics import Proxy
from pipeline.drill.orders import Order


@dataclass
class Scene:
    """What strikes may use: the running server, what it serves, what it is asked, and what was made for this play."""

    system: Hotspare
    served: Copied
    questions: Questions
    folder: Path
    seed: int
    proxy: Proxy | None = None
    memory_group: Path | None = None
    registry: Dependency | None = None
    store: Dependency | None = None
    facts: dict[str, str] = field(default_factory=dict)
    corrupt: dict[Role, Path] = field(default_factory=dict)
    given: dict[str, Order] = field(default_factory=dict)  # by address

    @property
    def orders(self) -> Path:
        """Return the folder of orders."""
        return self.system.folder / "orders"
