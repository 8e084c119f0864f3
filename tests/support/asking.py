"""People who vote on a small open round."""

from szpo.ledger.theta import theta_digest
from szpo.types import Answer, Comparison, Prompt, Query, Row
from szpo.voting import lease, steps
from tests.support.quadratic import settings_of

GOOD, BAD = Answer("warm"), Answer("cold")


KEY = "0123456789abcdef-{}".format


def ask(ledger, n=4, m=2, identical=()):
    """Open step 0 with n comparisons of two rows each."""
    plan = settings_of(N=n, M=m)
    epoch = lease.acquire(ledger, "test").epoch
    steps.record_plan(ledger, epoch, plan, Query(0, (), 0.5, None), theta_digest(ledger))
    steps.begin(ledger, epoch, 0)
    rows = [Row(Prompt.user("?"), GOOD, GOOD if i in identical else BAD) for i in range(n)]
    comparisons = [Comparison(f"c{i}", 0, 0, i, (rows[i],) * 2) for i in range(n)]
    steps.store(
        ledger, epoch, steps.StepAnswers(0, comparisons, theta_digest(ledger)), then_open=True
    )
    return epoch


def people(service, count):
    return [service.enroll("person", f"person {i}") for i in range(count)]
