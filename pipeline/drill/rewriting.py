"""Recording what a script leaves: its transcript, from the simulated world."""

from dataclasses import replace
from pathlib import Path

from pipeline.core.files import write_atomic
from pipeline.drill.script import format_script, load_script
from pipeline.drill.simulated.world import simulate
from pipeline.drill.transcript import transcript

_SEED = 0


def rewrite(place: Path) -> bool:
    """Record a script's transcript anew; tells whether it changed, and writes the file only then.

    Raises RecipeError for a script that cannot be read.
    """
    script = load_script(place)
    said = transcript(script, simulate(script, _SEED))
    if said == script.transcript:
        return False
    write_atomic(place, format_script(replace(script, transcript=said)).encode("utf-8"))
    return True
