"""The machine that figures were measured on."""

from pipeline.drill.machine import machine_facts


def machine() -> str:
    """Name the processor and how many there are."""
    facts = machine_facts()
    return f"{facts['processor']}, {facts['processors']} logical processors"
