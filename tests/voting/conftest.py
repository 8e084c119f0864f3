"""A run before its first round, and the service over it."""

import pytest

from szpo.voting.service import VoteService
from tests.support.quadratic import new_ledger, settings_of


@pytest.fixture
def ledger(request, tmp_path):
    """A ledger with the module's settings ``PLAN``, if it has any."""
    plan = getattr(request.module, "PLAN", settings_of())
    with new_ledger(tmp_path / "run.db", plan) as found:
        yield found


@pytest.fixture
def service(ledger):
    return VoteService(ledger)
