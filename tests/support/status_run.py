"""A run whose status is read."""

from szpo.config import schema
from tests.support.quadratic import new_ledger, settings_of


def new_run(path, *, steps=3, votes=None, **panel):
    """A ledger with recorded settings, as from `szpo run`: N 4, M 1, by default three steps."""
    plan = settings_of(N=4, D=2)
    chosen = schema.Config.model_validate(
        {
            "run": {"steps": steps, "votes": votes},
            "optimizer": {"rule": "known", "comparisons": 4, "rows": 2},
            "panel": {"kind": "people", **panel},
        }
    )
    return plan, new_ledger(path, plan, spec={"config": chosen.model_dump(mode="json")})
