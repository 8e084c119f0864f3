"""A panel that votes on calibration comparisons."""

from szpo.optim import optimizer
from szpo.types import Answer, Comparison, Prompt, Row
from szpo.voting.casting import VoteRequest
from tests.support.quadratic import open_step, settings_of

TOPICS = ("rain", "bread", "trains", "cats", "letters", "soup")


def rows(n, d=6, equal=False):
    """d rows of answers that fit their prompts; the sides differ unless ``equal``."""
    return tuple(
        Row(
            Prompt.user(f"Tell me about {topic}, number {n}."),
            Answer(f"I like {topic} number {n} very much indeed."),
            Answer(
                f"I like {topic} number {n} very much indeed."
                if equal
                else f"Number {n}: there is little to say about {topic}."
            ),
        )
        for topic in TOPICS[:d]
    )


def ask(ledger, n=8, m=2, equal=()):
    """Open step 0 with n comparisons of six rows."""
    plan = settings_of(N=n, M=m, D=6)
    asked = [Comparison(f"s0-{i}", 0, 0, i, rows(i, equal=i in equal)) for i in range(n)]
    open_step(ledger, plan, asked, mu=optimizer.ask(optimizer.init(plan)).mu)


def vote_all(service, panelist, choice="A"):
    while (seat := service.assign(panelist)) is not None:
        service.cast(VoteRequest(seat.id, choice, idem=seat.id))
