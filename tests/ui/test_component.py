"""The comparison in a Gradio page of somebody's own."""

import importlib.util
from pathlib import Path

import gradio as gr
import pytest
from fastapi import FastAPI

import szpo_ui
from szpo.errors import UsageError
from szpo_ui import credentials
from tests.support.browser import serve
from tests.support.panel_states import until, visit, vote

pytest_plugins = ["tests.support.browser"]
EXAMPLE = Path(__file__).parents[2] / "examples" / "vote_in_blocks.py"


@pytest.mark.parametrize("openly", [False, True])
def test_a_run_with_invited_people_is_refused_in_one_line(staged, tmp_path, openly):
    stage = staged("mine", begun=False)
    if openly:
        credentials.make_open_link(stage.ledger, 5, 10, None, 30.0)
    else:
        stage.invitation("panelist", "P-01")
    with pytest.raises(UsageError, match=r"mine has invited people.* szpo serve mine;") as error:
        szpo_ui.Comparison("mine", folder=tmp_path)
    assert "\n" not in str(error.value)


def test_nobody_logs_in_and_votes_are_those_of_one_local_evaluator(
    staged, tmp_path, chromium, monkeypatch
):
    """The page of the example, as Gradio serves it without szpo's server around it."""
    stage = staged("mine")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").symlink_to(tmp_path)
    spec = importlib.util.spec_from_file_location("vote_in_blocks", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    with serve(gr.mount_gradio_app(FastAPI(), example.page("mine"), "/own")) as stage.url:
        page = visit(chromium.new_context(), stage, "/own/")
        page.click("[data-do=agree]")
        until(page, "vote", name="me")
        vote(page)
        until(page, "vote", number="2")
        page.wait_for_function("document.querySelector('#votes input').value === '1'")
        page.context.close()
    (panelist,) = stage.site.service.panelists()
    assert (panelist["kind"], panelist["pseudonym"]) == ("person", "me")
    assert [row["choice"] for row in stage.ledger.votes()] == ["B"]
