"""Text from outside, made safe to show: no character of a file may steer a terminal or forge a line."""

_KEPT = "\u00a0\u202f"  # spaces that do not break: people write them


def printable(text: str) -> str:
    r"""Return one line of ``text``, every control, format and surrogate character spelled out, e.g. ``\x1b``."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in _KEPT else ascii(char)[1:-1] for char in text)


def printable_lines(text: str) -> str:
    """Return ``text`` line by line as :func:`printable` does, keeping its line feeds and nothing else."""
    return "\n".join(map(printable, text.split("\n")))
