"""``mlflow/promotion.yaml``: who promotes, what a pair must meet, what its channel says; read, with every problem."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pipeline.core.errors import RecipeError
from pipeline.core.files import read_bytes
from pipeline.core.schema import Rule
from pipeline.core.strict_yaml import read_yaml
from pipeline.registry.follow_terms import DEFAULT_FOLLOW_TERMS, FollowTerms
from pipeline.registry.freezing import Freeze

POLICY = Path("mlflow/promotion.yaml")


class Mode(StrEnum):
    """Who promotes: ``register`` by itself, or a person with ``hotspare promote``."""

    AUTOMATIC = "automatic"
    MANUAL = "manual"


class Origin(StrEnum):
    """Something that tells where a bundle comes from."""

    GIT_COMMIT = "git_commit"
    DVC_LOCK = "dvc_lock"


@dataclass(frozen=True)
class Gates:
    """What both bundles of a pair must meet, beyond the recipe's own budgets."""

    loss_high_max_ratio_of_budget: Annotated[
        float, Rule("Upper end of the loss interval over the recipe's budgets.loss_max_abs.", minimum=0, maximum=1)
    ] = 1.0
    latency_p50_max_ratio: Annotated[
        float, Rule("Median latency over the float reference's, measured interleaved.", minimum=0)
    ] = 3.0
    drill_max_age_days: Annotated[
        float | None, Rule("This pair passed a live drill, attested, at most so long ago.", minimum=0)
    ] = None
    drill_rto_ms_max: Annotated[
        float | None, Rule("Time to restore service in that drill, its 95th percentile.", minimum=0)
    ] = None

    provenance: Annotated[
        tuple[Origin, ...], Rule("What must be known of where a bundle comes from: git_commit, dvc_lock.")
    ] = ()
    separate_duties: Annotated[bool, Rule("Whoever built a bundle may not be the one who promotes it.")] = False

    @property
    def ask_for_drill(self) -> bool:
        """Tell whether a pair must have been drilled."""
        return self.drill_max_age_days is not None or self.drill_rto_ms_max is not None


@dataclass(frozen=True)
class ChannelTerms:
    """What a new channel says of itself."""

    epoch: Annotated[int, Rule("Raise it only after the channel's and the registry's history are lost.", minimum=1)] = 1
    refresh_days: Annotated[float, Rule("Days until register or follow renews the channel.", minimum=0.01)] = 30.0
    valid_days: Annotated[float, Rule("Days until nodes refuse the channel.", minimum=0.01)] = 90.0

    def problems(self) -> Iterator[str]:
        """Yield what is wrong across fields."""
        if self.valid_days <= self.refresh_days:
            yield "valid_days: must be larger than refresh_days, or the channel expires before it is renewed"


@dataclass(frozen=True)
class PromotionPolicy:
    """``mlflow/promotion.yaml``."""

    mode: Mode
    gates: Gates = Gates()
    channel: ChannelTerms = ChannelTerms()
    freeze: Annotated[tuple[Freeze, ...], Rule("When the pair in force is not changed, except by a rollback.")] = ()
    depot: Annotated[str | None, Rule("Where promoted releases are published for nodes: a folder, or s3://….")] = None
    follow: FollowTerms = DEFAULT_FOLLOW_TERMS

    def problems(self) -> Iterator[str]:
        """Yield what is wrong across fields."""
        if self.gates.separate_duties and self.mode is Mode.AUTOMATIC:
            yield "gates.separate_duties: with `mode: automatic` whoever builds would promote, too; use `mode: manual`"


def parse_policy(text: str | bytes, place: str) -> PromotionPolicy:
    """Read a promotion policy from YAML text; raises RecipeError with every problem found."""
    return read_yaml(PromotionPolicy, text, place, RecipeError)


def load_policy(path: Path = POLICY) -> PromotionPolicy:
    """Load ``mlflow/promotion.yaml``; raises RecipeError when it is missing or malformed."""
    text = read_bytes(path, RecipeError, "copy it from the hotspare project, or run `hotspare init`")
    return parse_policy(text, str(path))
