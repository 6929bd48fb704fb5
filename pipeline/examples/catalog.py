"""The three examples by name."""

from pipeline.examples import credit, diagnosis, recommendation
from pipeline.examples.prepared import Example

EXAMPLES: dict[str, Example] = {
    "credit": credit.EXAMPLE,
    "diagnosis": diagnosis.EXAMPLE,
    "recommendation": recommendation.EXAMPLE,
}
