"""What a process is called in ``ps`` and ``top``; without setproctitle they keep their command line."""

import importlib.util
from collections.abc import Callable


def _setter() -> Callable[[str], None]:
    if importlib.util.find_spec("setproctitle") is None:
        return lambda _title: None
    from setproctitle import setproctitle

    return lambda title: setproctitle(title)


set_title = _setter()
