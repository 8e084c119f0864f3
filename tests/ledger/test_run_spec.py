"""A run is only replayed with the directions, the seed and the layout that it was made with."""

import pytest

from szpo.errors import IntegrityError
from szpo.ledger.creation import NewRun
from szpo.ledger.database import Ledger
from szpo.ledger.run_spec import recorded_settings
from szpo.optim import DIRECTION_VERSION, settings_to_json
from tests.support.quadratic import LAYOUT, settings_of


def read_back(path, **changes):
    settings = settings_of()
    made = {
        "root_seed": settings.root_seed,
        "layout": LAYOUT,
        "direction_version": DIRECTION_VERSION,
        **changes,
    }
    with Ledger.create(path, NewRun({"optimizer": settings_to_json(settings)}, **made)) as ledger:
        return recorded_settings(ledger) == settings


def test_a_run_of_another_direction_table_seed_or_layout_is_refused(tmp_path):
    assert read_back(tmp_path / "own.db")
    other = {
        "direction_version": DIRECTION_VERSION + 7,
        "root_seed": settings_of().root_seed + 1,
        "layout": (("z", (LAYOUT[0][1][0] + 1,)),),
    }
    for name, value in other.items():
        with pytest.raises(IntegrityError):
            read_back(tmp_path / f"{name}.db", **{name: value})
