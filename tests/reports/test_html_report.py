"""The report page: self-contained, harmless, and saying what the ledger says."""

import math
import re
from dataclasses import replace
from pathlib import Path

import matplotlib
import pytest

import szpo
from szpo.analysis import charts, html_report, improvement
from szpo.analysis.charts import Series, line_chart
from szpo.cli.app import call
from szpo.errors import UsageError
from szpo.ledger.database import Ledger
from szpo.runs import services, status
from szpo.types import Prompt
from szpo.voting import applied_step
from tests.support import yard_run
from tests.support.outline import Outline
from tests.support.quadratic import QuadraticPolicy, go, new_ledger, settings_of

HOSTILE = '<script>alert(1)</script>" onload="x \u202egnihton [bold] {{ 7*7 }}'


@pytest.fixture(scope="module")
def yard(tmp_path_factory):
    return yard_run.make(tmp_path_factory.mktemp("yard"), "optimizer.M=2", "run.votes=48")


def page_of(path: Path) -> str:
    assert call(["report", str(path)]) == 0
    return path.with_suffix(".html").read_text(encoding="utf-8")


@pytest.mark.full
def test_page_is_whole_and_self_contained(yard):
    tags = Outline(page := page_of(yard))
    assert {"script", "link", "img", "iframe"}.isdisjoint(tag for tag, _ in tags.found)
    named = {name for _, attributes in tags.found for name in attributes}
    assert "src" not in named
    links = [attributes["href"] for _, attributes in tags.found if "href" in attributes]
    assert links and all(link.startswith("#") for link in links)
    assert not [name for name in named if name.startswith("on")]
    assert "default-src 'none'" in page
    assert re.search(r'<p class="good">verified: \d+ rows, 3 steps', page)
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(ids) == len(set(ids)), "two charts of one page share no name"


@pytest.mark.full
def test_contents_lead_to_every_section_and_one_kl_is_told(yard, monkeypatch):
    with Ledger.open(yard, readonly=True) as ledger:
        found = improvement.read(ledger)
        last = replace(found.points[-1], kl=2.356)
        told = replace(found, points=(found.points[0], last), kl=2.356, kl_measured=True)
        monkeypatch.setattr(improvement, "read", lambda _: told)
        page = html_report.render(ledger)
        (curve,) = [
            figure["svg"]
            for figure in html_report._figures(
                ledger, status.read_results(ledger).table, told, None, ""
            )
            if figure["title"] == "KL to the base"
        ]
    headings = dict(re.findall(r'<h2 id="(.*?)">(.*?)</h2>', page))
    assert dict(re.findall(r'<li><a href="#(.*?)">(.*?)</a></li>', page)) == headings
    visible = re.sub(r"<details.*?</details>|<style.*?</style>", " ", page, flags=re.DOTALL)
    assert not re.search(r"\b(plus|minus)\b", visible)
    assert re.search(r"<small>(first|second) text, preferred<", visible)
    assert {"Before and after", "Who voted", "Verification"} <= set(headings.values())
    assert ", 2.4 nats" in page and "its last point is the adapter&#39;s" in page
    assert "<desc>KL to the base: 0 (step 0) to 2.36 (step" in curve


def test_hostile_texts_are_shown_not_run(tmp_path):
    class Hostile(QuadraticPolicy):
        def rollout(self, prompts, shifts, *, seed):  # type: ignore[no-untyped-def]
            batches = super().rollout(prompts, shifts, seed=seed)
            return [
                tuple(type(a)(f"{a.text} {HOSTILE}", a.end, a.tokens) for a in batch)
                for batch in batches
            ]

    settings = settings_of(N=2, D=1)
    with new_ledger(tmp_path / "x.db", settings) as ledger:
        prompts = services.prompt_order([Prompt.user(HOSTILE)], settings)
        go(settings, ledger, Hostile(settings), prompts=prompts, until_step=2)
        page = html_report.render(ledger)
    tags = Outline(page)
    assert not tags.all("script")
    assert "\u202e" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "⟨202E⟩" in page
    assert "{{ 7*7 }}" in page


def test_a_run_without_votes_has_a_page(tmp_path):
    with new_ledger(tmp_path / "x.db", settings_of()) as ledger:
        page = html_report.render(ledger)
    assert "No answers yet." in page
    assert "Not checked for this page" in page


def test_picture_is_a_file_of_its_own(yard, tmp_path):
    out = tmp_path / "chart.svg"
    assert call(["report", str(yard), "--svg", str(out)]) == 0
    text = out.read_text(encoding="utf-8")
    assert text.startswith('<svg xmlns="http://www.w3.org/2000/svg"')
    assert "walk of the answers shown, over the votes spent" in text


def test_a_chart_has_equal_bytes_names_ends_and_no_formula_or_element_of_a_text():
    series = [
        Series("fewer <b>", [0, 10], [0.0, 1.0], [0.0, 0.5], [0.5, 1.0]),
        Series("_$x_1$ \u202e日", [0, 5, 10], [2.0, math.nan, 2.0]),
    ]
    svg = line_chart("t <i>", series, x_label="votes", y_label="y", bounds=(0, 1), reference=0.5)
    assert svg == line_chart(
        "t <i>", series, x_label="votes", y_label="y", bounds=(0, 1), reference=0.5
    )
    tags = Outline(svg)
    assert not {"b", "i", "style", "image", "metadata"} & {tag for tag, _ in tags.found}
    assert tags.found[0][1]["aria-label"] == "t <i>" and "\u202e" not in svg
    (told,) = re.findall("<desc>(.*)</desc>", svg)
    assert told.startswith("fewer &lt;b&gt;: 0 (votes 0) to 1 (votes 10); ")
    assert "$x_1$" in tags.text and "100 %" in tags.text and "nan" not in svg.lower()
    ids = [attrs["id"] for _, attrs in tags.found if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert not re.search("#[0-9a-f]{6}(?!\\))", svg), "every colour is the page's"
    assert "nothing to draw yet" in line_chart("t", [], x_label="x", y_label="y")


matplotlib.use("agg")
LEDGER = Path(__file__).parents[1] / "ledgers" / "regression.db"


@pytest.fixture(autouse=True)
def closed():
    yield
    from matplotlib import pyplot

    pyplot.close("all")


@pytest.mark.full
def test_kl_is_drawn_over_the_steps_that_have_it(tmp_path):
    with Ledger.open(LEDGER, readonly=True) as ledger:
        reports = applied_step.read_reports(ledger)
        known = {each.step: each.kl for each in reports if each.kl is not None}
    axes = szpo.plots.kl(LEDGER)
    assert dict(zip(*axes.lines[0].get_data(), strict=True)) == known
    assert szpo.plots.kl(LEDGER, ax=axes) is axes and len(axes.lines) == 2
    new_ledger(tmp_path / "empty.db", settings_of()).close()
    with pytest.raises(UsageError, match="nothing to draw under 'KL to the base'"):
        szpo.plots.kl(tmp_path / "empty.db")


def test_a_gain_is_drawn_with_its_interval_and_never_made_up(monkeypatch):
    with pytest.raises(UsageError, match="no gain was measured"):
        szpo.plots.gain(LEDGER)
    series = Series("held out", [0, 8], [0.5, 0.75], [0.5, 0.6], [0.5, 0.9])
    monkeypatch.setattr(charts, "gain_series", lambda helped: series)
    axes = szpo.plots.gain(LEDGER)
    assert axes.lines[0].get_ydata().tolist() == [0.5, 0.75]
    low, high = axes.collections[0].get_datalim(axes.transData).intervaly
    assert (low, high) == pytest.approx((0.5, 0.9))


def test_a_notebook_shows_the_run_escaped(monkeypatch):
    with szpo.open(LEDGER) as run:
        html = run._repr_html_()
        assert "szpo run regression" in html and "<td" in html and "<script" not in html
        monkeypatch.setitem(run.ledger.spec, "optimizer", {"rule": "<script>alert(1)</script>"})
        assert "&lt;script&gt;" in run._repr_html_()
