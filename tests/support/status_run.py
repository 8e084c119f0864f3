"""A run whose status is read."""

from szpo.config import schema
from szpo.ledger.creation import NewRun
from szpo.ledger.database import Ledger
from szpo.optim.checked_settings import settings_to_json
from szpo.optim.sample_directions import DIRECTION_VERSION
from tests.support.quadratic import Clock, settings_of


def new_run(path, *, steps=3, votes=None, **panel):
    """A ledger with settings on record, as `szpo run` makes it: N 4, M 1, three steps."""
    plan = settings_of(N=4, D=2)
    chosen = schema.Config.model_validate(
        {
            "run": {"steps": steps, "votes": votes},
            "optimizer": {"rule": "known", "comparisons": 4, "rows": 2},
            "panel": {"kind": "people", **panel},
        }
    )
    spec = {"config": chosen.model_dump(mode="json"), "optimizer": settings_to_json(plan)}
    ledger = Ledger.create(
        path,
        NewRun(
            spec,
            root_seed=plan.root_seed,
            layout=plan.layout,
            direction_version=DIRECTION_VERSION,
            run="run-1",
        ),
        clock=Clock(),
    )
    return plan, ledger
