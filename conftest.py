"""What every test starts from."""

import signal

# Started in the background by a script, a process ignores the keyboard's interrupt, and so do its
# children: tests that interrupt a run would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
