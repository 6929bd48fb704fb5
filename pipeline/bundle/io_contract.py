"""``io.json``: what goes into the model and what comes out, without opening it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from pipeline.core.schema import Rule


@dataclass(frozen=True)
class TensorQuantization:
    """How an integer tensor stands for real numbers: real = scale × (stored − zero_point)."""

    scale: Annotated[float, Rule(minimum=0)]
    zero_point: int


@dataclass(frozen=True)
class TensorContract:
    """One input or output; ``shape`` has -1 for a free axis, the first axis counts rows."""

    name: str
    dtype: str
    shape: Annotated[tuple[int, ...], Rule(min_items=1)]
    quantization: TensorQuantization | None = None


@dataclass(frozen=True)
class OutputRule:
    """What holds for every value of an output; the source says whether it was declared or observed."""

    name: str
    minimum: float
    maximum: float
    simplex: Annotated[bool, Rule("The values of a row are probabilities that sum to 1.")]
    source: Literal["declared", "observed"]

    def problems(self) -> Iterator[str]:
        """Yield what is wrong across fields."""
        if self.minimum > self.maximum:
            yield "minimum: above maximum"


@dataclass(frozen=True)
class IoContract:
    """The tensors of a bundle's model and what holds for its outputs."""

    schema_version: Literal[1]
    inputs: Annotated[tuple[TensorContract, ...], Rule(min_items=1)]
    outputs: Annotated[tuple[TensorContract, ...], Rule(min_items=1)]
    rules: tuple[OutputRule, ...]
    notes: Annotated[str, Rule("What happens before and after the model, in words.")]

    @property
    def rows_are_even(self) -> bool:
        """Tell whether every row of every input is of one size: only the number of rows is free."""
        return not any(-1 in tensor.shape[1:] for tensor in self.inputs)

    def problems(self) -> Iterator[str]:
        """Yield what is wrong across fields."""
        for field_name, tensors in (("inputs", self.inputs), ("outputs", self.outputs)):
            if len({tensor.name for tensor in tensors}) != len(tensors):
                yield f"{field_name}: a name stands twice"
        if {rule.name for rule in self.rules} - {tensor.name for tensor in self.outputs}:
            yield "rules: a rule names no output"
