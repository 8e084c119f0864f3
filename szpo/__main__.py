"""``python -m szpo`` and the command ``szpo``: signals are handled before anything is loaded.

Loading the command line takes about a second, in which an interrupt would end in a traceback. So
this file's top imports only the standard library.
"""

from __future__ import annotations

import os
import signal
from typing import NoReturn

SIGNALS = {signal.SIGINT: (130, b"an interrupt"), signal.SIGTERM: (143, b"SIGTERM")}
"""Signals that end a command, with exit code and name."""


def _leave(number: int, _frame: object) -> NoReturn:
    """Exit immediately: nothing has started that needs a proper end."""
    for each in SIGNALS:  # a second signal would print a second line
        signal.signal(each, signal.SIG_IGN)
    code, name = SIGNALS[signal.Signals(number)]
    os.write(2, b"stopped by " + name + b"\n")
    os._exit(code)


def main() -> NoReturn:
    """Run the command line and leave with its exit code."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # ignored in a script's background
            signal.signal(number, _leave)
    # Beside another busy process, threads that spin while they wait cost torch ten times its time.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    from szpo.cli.app import main as run

    run()


if __name__ == "__main__":
    main()
