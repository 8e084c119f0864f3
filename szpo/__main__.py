"""``python -m szpo`` and the command ``szpo``: signals are answered before anything is loaded.

Loading the command line takes a second or so, in which an interrupt would end in a traceback. So
nothing but the standard library stands at this file's top.
"""

from __future__ import annotations

import os
import signal
from typing import NoReturn

SIGNALS = {signal.SIGINT: (130, b"an interrupt"), signal.SIGTERM: (143, b"SIGTERM")}
"""What ends a command, with its exit code and its name."""


def _leave(number: int, _frame: object) -> NoReturn:
    """End at once: nothing has begun that would have to be ended properly."""
    for each in SIGNALS:  # a second one would say it a second time
        signal.signal(each, signal.SIG_IGN)
    code, name = SIGNALS[signal.Signals(number)]
    os.write(2, b"stopped by " + name + b"\n")
    os._exit(code)


def main() -> NoReturn:
    """Run the command line and leave with its exit code."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as in the background of a script
            signal.signal(number, _leave)
    from szpo.cli.app import main as run

    run()


if __name__ == "__main__":
    main()
