"""One KL and one win share of an adapter, wherever a person reads them."""

import re

import pytest

from szpo.analysis import improvement
from szpo.analysis.model_card import model_card
from szpo.cli.app import call
from szpo.ledger.database import Ledger
from szpo.runs import status
from szpo.tuner import read_result
from szpo.voting.applied_step import Outcome
from tests.support import folder_run

SHARE, NATS = re.compile(r"\d+ % \[\d+, \d+\]"), re.compile(r"(?:≈ )?\d+\.\d+ nats")


@pytest.mark.full
def test_run_show_report_card_and_library_say_the_same_two_figures(tmp_path, capsys):
    path = folder_run.make(tmp_path, "evaluation.prompts=4", "evaluation.samples=2")
    places = {"run": capsys.readouterr().out}
    assert call(["show", str(path)]) == 0
    more = f"  szpo run --resume {path} --votes +"
    places["show"], buys, _ = capsys.readouterr().out.partition(more)
    assert buys, "what buys more votes; what a nat looks like stands apart"
    assert call(["report", str(path)]) == 0
    page = path.with_suffix(".html").read_text(encoding="utf-8")
    places["report"] = re.sub(r"<details.*?</details>", "", page, flags=re.DOTALL)
    with Ledger.open(path, readonly=True) as ledger:
        helped, noted = improvement.read(ledger), status.kl_after(ledger)
        places["card"] = model_card(ledger)
        places["library"] = str(read_result(Outcome("finished", "", 2, 8), ledger))
    assert helped.kl_measured and noted is not None and noted != helped.kl
    for name, text in places.items():
        assert set(SHARE.findall(text)) == {helped.short}, name
        assert set(NATS.findall(text)) == {f"{helped.kl:.1f} nats"}, name
    assert f'aria-label="{helped.short} on' in places["report"]
