"""People who vote on a small open round."""

from szpo.types import Answer, Comparison, Prompt, Row
from tests.support.quadratic import open_step, settings_of

GOOD, BAD = Answer("warm"), Answer("cold")
KEY = "0123456789abcdef-{}".format


def ask(ledger, n=4, m=2, identical=()):
    """Open step 0 with n comparisons of two rows each."""
    plan = settings_of(N=n, M=m)
    rows = [Row(Prompt.user("?"), GOOD, GOOD if i in identical else BAD) for i in range(n)]
    comparisons = [Comparison(f"c{i}", 0, 0, i, (rows[i],) * 2) for i in range(n)]
    return open_step(ledger, plan, comparisons)


def people(service, count):
    return [service.enroll("person", f"person {i}") for i in range(count)]
