"""Simulates a process that dies at a chosen write, inside one process."""


class Crash(BaseException):
    """The simulated process is dead; no ``except Exception`` catches this."""


class Faulty:
    """Counts calls, one per write or change of the policy, and crashes at the chosen one."""

    def __init__(self, at):
        self.at, self.seen, self.dead = at, 0, False

    def __call__(self):
        if self.dead:
            raise Crash  # a dead process writes nothing more
        self.seen += 1
        if self.seen == self.at:
            self.dead = True
            raise Crash


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
