"""Processes that die at a chosen write, played inside one process."""

from szpo.ledger.database import Ledger
from tests.support.quadratic import (
    QuadraticPolicy,
)


class Crash(BaseException):
    """The process is gone: no handler of the library's may save it."""


class Faulty:
    """Counts every write (and every change of the policy) and crashes at the chosen one."""

    def __init__(self, at):
        self.at, self.seen, self.dead = at, 0, False

    def __call__(self):
        if self.dead:
            raise Crash  # a dead process writes nothing more
        self.seen += 1
        if self.seen == self.at:
            self.dead = True
            raise Crash


class CrashingPolicy(QuadraticPolicy):
    def __init__(self, settings, fault):
        super().__init__(settings)
        self.fault = fault

    def apply(self, update):
        self.fault()
        super().apply(update)
        self.fault()

    def rollout(self, prompts, shifts, *, seed):
        self.fault()
        return super().rollout(prompts, shifts, seed=seed)


def opened(path, clock):
    """Without fsync: a process's death loses nothing that was written, and this is much faster."""
    ledger = Ledger.open(path, clock=clock)
    ledger.execute("PRAGMA synchronous=OFF")
    return ledger


def wrap(ledger, fault):
    """Crash before each writing statement, and after each COMMIT."""
    plain = ledger.execute

    def execute(sql, parameters=()):
        word = sql.split(None, 1)[0].upper()
        if word in ("BEGIN", "INSERT", "UPDATE", "DELETE", "COMMIT"):
            fault()
        cursor = plain(sql, parameters)
        if word == "COMMIT":
            fault()
        return cursor

    ledger.execute = execute
    return ledger
