"""A folder of runs at one address: its rows, who gets in where, what its buttons do."""

from __future__ import annotations

import itertools
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from szpo import memory
from szpo.analysis import improvement
from szpo.cli.app import call
from szpo.config import settings_file
from szpo.errors import LeaseError, ResourceError, StorageError, UsageError
from szpo.ledger import orders
from szpo.ledger.database import Ledger
from szpo.policies.text_guards import Guard
from szpo.runs import sample_check
from szpo.training import budget, held_out, results
from szpo.voting import lease, pauses
from szpo_ui.folder import access, application, page, side_by_side
from szpo_ui.folder import controllers as processes
from szpo_ui.folder.controllers import Controllers
from szpo_ui.folder.rows import FolderReader
from szpo_ui.web import address, credentials, login
from szpo_ui.web.address import link
from tests.support import yard_run
from tests.support.browser import (
    NARROW,
    cast,
    in_both_colours,
    make,
    misfits,
    play,
    serve,
    violations,
)
from tests.support.served import refused
from tests.support.waiting import until


def row_of(folder: Path, name: str) -> dict[str, Any]:
    return next(row for row in FolderReader(folder).rows() if row["name"] == name)


def home_of(folder: Path, controllers: Controllers | None = None) -> page.Home:
    door = access.door(access.open_ledger(folder))
    return page.Home(folder, door, FolderReader(folder), controllers)


@contextmanager
def serving(folder: Path, **options: Any) -> Iterator[tuple[str, Ledger]]:
    """The address of a folder under a server, and the folder's own ledger."""
    with access.open_ledger(folder) as ledger:
        made = application.create(
            folder, access.door(ledger), Controllers(folder, print), **options
        )
        with serve(made) as url:
            yield url, ledger


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A simulated run to its end, measured before, along the way and after."""
    folder = tmp_path_factory.mktemp("yard")
    return yard_run.make(folder, "evaluation.along=1", "evaluation.prompts=4", "run.name=yard")


@pytest.fixture(scope="module")
def stock(tmp_path_factory, finished):
    """A finished run, one that people vote on, a damaged one, a newer one, another file."""
    folder = tmp_path_factory.mktemp("stock")
    shutil.copy(finished, folder / "yard.db")
    people = make(folder / "people.db", sets=["panel.pay_per_hour=12"])
    play(people, 2)
    cast(people, "Ada")
    people.ledger.close()
    (folder / "damaged.db").write_bytes((folder / "people.db").read_bytes()[:5000])
    shutil.copy(finished, folder / "newer.db")
    with closing(sqlite3.connect(folder / "newer.db")) as newer:
        newer.execute("PRAGMA user_version = 99")
    (folder / "other.db").write_text("no ledger", encoding="utf-8")
    return folder


@pytest.fixture
def folder(tmp_path, stock):
    """A copy of those runs."""
    for path in stock.glob("*.db"):
        shutil.copy(path, tmp_path)
    return tmp_path


# ---- rows ----


@pytest.mark.full
def test_rows_say_what_the_commands_say_of_each_run(folder):
    people, yard = row_of(folder, "people"), row_of(folder, "yard")
    assert (people["state"], people["panel"], people["model"]) == ("stopped", "people", "fixed")
    assert people["detail"] == "no process holds its model. Votes are taken."
    # Two rounds of 2 comparisons × 2 votes, and one vote of the open round.
    assert (people["rounds"], people["votes"], people["budget"]) == (2, 9, 400)
    assert (people["helped"].short, people["helped"].verdict) == ("–", "unknown")
    # A comparison shows 3 pairs of 12 words each: 72 are read for a vote, at 238 a minute.
    assert people["person_hours"] == pytest.approx(9 * 72 / 238 / 60)
    assert people["money"] == pytest.approx(12 * 9 * 72 / 238 / 60)
    assert (yard["state"], yard["panel"], yard["person_hours"]) == ("finished", "bt70", None)
    for row in (people, yard):
        with Ledger.open(folder / f"{row['name']}.db", readonly=True) as ledger:
            total, helped = results.read(ledger), improvement.read(ledger)
            assert (row["votes"], row["rounds"], row["budget"]) == (
                total.votes,
                total.steps,
                total.budget,
            )
            assert (row["helped"].short, row["helped"].sentence) == (helped.short, helped.sentence)
            last = ledger.query("SELECT max(received_us) AS at FROM votes")[0]["at"]
            assert row["last_vote_us"] == last
            if row["person_hours"] is not None:
                assert row["person_hours"] == budget.person_hours(ledger)


def test_a_guard_that_fails_stands_beside_the_verdict_and_at_the_end_of_a_run(folder, capsys):
    path = folder / "yard.db"
    with Ledger.open(path) as ledger:
        fine, bad = Guard("fluency", 0.1, "≤ 1", True), Guard("distinct-2", 0.8, "≥ 0.9", False)
        held_out.record(ledger, "test", held_out.HeldOut((), (fine, bad)))
    assert row_of(folder, "yard")["guards"] == "1 of 2 fail: distinct-2"
    assert "! guards: 1 of 2 fail: distinct-2" in page.render_rows(home_of(folder))
    assert call(["run", "--resume", str(path)]) == 0
    assert "guards on held-out prompts: 1 of 2 fail: distinct-2" in capsys.readouterr().out


def test_a_run_is_stopped_once_its_lease_is_over_though_its_file_rests(staged, tmp_path):
    stage = staged()
    reader = FolderReader(tmp_path, stage.clock)
    lease.acquire(stage.ledger, "elsewhere:1:0:00000000", ttl_us=60_000_000)
    (row,) = reader.rows()
    assert (row["state"], row["detail"], row["driven"]) == ("running", "collecting votes", True)
    stage.clock.forward(61)
    (row,) = reader.rows()
    assert (row["state"], row["driven"], reader.reads) == ("stopped", False, 1)


# ---- side by side ----


def test_side_by_side_has_what_differs_and_curves_on_votes_and_on_reading(folder):
    found = side_by_side.read([folder / "yard.db", folder / "people.db"])
    (yard, people), settings = found["runs"], found["settings"]
    assert settings["panel.kind"] == ("bt70", "people")
    assert settings["optimizer.mu"] == ("0.4", "none")
    assert "run.name" not in settings and "panel.size" not in settings
    with Ledger.open(folder / "yard.db", readonly=True) as ledger:
        table, helped = results.read(ledger).table, improvement.read(ledger)
    votes = itertools.accumulate(step.votes for step in table)
    read = list(itertools.accumulate(step.answers_read for step in table))
    length = (step.length for step in table)
    assert [at[:3] for at in yard["curves"]["length"]] == list(
        zip(votes, read, length, strict=True)
    )
    won = [(p.votes, p.wins.value) for p in helped.points if p.wins is not None]
    assert [(at[0], at[2]) for at in yard["curves"]["heldout"]] == won
    assert yard["curves"]["heldout"][-1][1] == read[-1], "measured after the last step"
    assert people["curves"]["heldout"] == [] and people["read"] == 9 * 6
    ((prompt, base, tuned),) = helped.before_after
    (text,) = found["texts"]
    assert text == {"prompt": prompt, "bases": [(base, {"yard": tuned})]}
    points = tuple(replace(p, kl=p.steps / 2 or None) for p in helped.points)
    measured = improvement.curves(table, replace(helped, points=points, kl_measured=True))
    # One KL for an adapter: what was measured of it, not what rounds noted where they asked.
    assert [at[2] for at in measured["kl"]] == [p.steps / 2 for p in points]


def test_each_run_stands_beside_its_own_base_and_rewards_of_a_kind_share_an_axis(folder):
    """A run of another model and another reward was shown with the first run's base."""
    run = side_by_side.read_run(folder / "yard.db")
    ((prompt, base, tuned),) = run["helped"].before_after
    first, *points = run["helped"].points
    first = replace(first, texts=((prompt, "another base"),))
    helped = replace(run["helped"], points=(first, *points))
    runs = [
        run, {**run, "name": "again"},
        {**run, "name": "other", "helped": helped, "reward": "length:40"},
    ]  # fmt: skip
    found = side_by_side.side_by_side(runs)
    (text,) = found["texts"]
    both = {"yard": tuned, "again": tuned}
    assert text["bases"] == [(base, both), ("another base", {"other": tuned})]
    shown = page._environment().get_template("folder/compare.html")
    shown = shown.render(found=found, prefix=address.run_prefix)
    assert "base of yard, again" in shown and "base of other" in shown
    charts = {chart["title"]: [bool(curve) for curve in chart["series"]]
              for chart in found["charts"]}  # fmt: skip
    title = side_by_side.CHARTS["reward"]
    assert charts[f"{title}: walk"] == [True, True, False]
    assert charts[f"{title}: length:40"] == [False, False, True]
    assert charts[side_by_side.CHARTS["heldout"]] == [True, True, True]
    assert len({chart["key"] for chart in found["charts"]}) == len(charts)


@pytest.mark.parametrize("names", [["a"], ["a", "a"], list("abcdefg")])
def test_fewer_than_two_and_more_than_six_runs_are_refused(names):
    with pytest.raises(UsageError, match="choose two to six runs"):
        side_by_side.check_names(names)


# ---- access ----


@dataclass
class Served:
    """A folder under a server; ``operator`` is logged in at its root."""

    folder: Path
    url: str
    ledger: Ledger
    operator: httpx.Client
    nobody: httpx.Client

    def invited(self, run: str, name: str = "P-01") -> tuple[httpx.Client, str]:
        """A panelist of a run, logged in there; and a link that is not used yet."""
        with Ledger.open(self.folder / f"{run}.db") as ledger:
            first = credentials.invite(ledger, "panelist", name)
            second = credentials.invite(ledger, "panelist", f"{name}-again")
        client = httpx.Client(base_url=self.url, timeout=30)
        answer = client.post(f"/r/{run}/login", json={"name": name, "code": first.code})
        assert answer.json()["go"] == f"/r/{run}/panel/"
        return client, second.token


@pytest.fixture
def served(folder):
    with (
        serving(folder, roles=()) as (url, ledger),
        httpx.Client(base_url=url, timeout=30) as operator,
        httpx.Client(base_url=url, timeout=30) as nobody,
    ):
        token = credentials.invite(ledger, "operator", "Olga").token
        assert operator.post("/redeem", json={"token": token}).json()["go"] == "/"
        yield Served(folder, url, ledger, operator, nobody)


def test_without_a_login_nothing_of_the_folder_is_shown(served):
    for path in ("/", "/compare?run=yard&run=people"):
        answer = served.nobody.get(path)
        assert (answer.status_code, answer.headers["location"][:6]) == (303, "/login")
    for path in ("/home-api/rows", "/home-api/curves?run=yard&run=people", "/r/nothing/x"):
        assert served.nobody.get(path).status_code == 401
    body = {"do": "pause", "run": "people"}
    assert served.nobody.post("/home-api/act", json=body).status_code == 401
    assert served.nobody.post("/home-api/begin", json={"name": "a"}).status_code == 401
    assert served.nobody.get("/r/people/").headers["location"] == "/r/people/login"
    with Ledger.open(served.folder / "people.db", readonly=True) as ledger:
        assert lease.controller(ledger)["paused_by"] is None


@pytest.mark.full
def test_a_panelist_reaches_their_own_run_alone(served):
    ann, link = served.invited("people")
    with closing(ann):
        assert ann.get("/r/people/api/status").status_code == 200
        assert ann.get("/r/yard/api/status").status_code == 401
        assert ann.get("/r/people/operate-api/status").status_code in (401, 404)
        for path in ("/", "/home-api/rows"):
            assert ann.get(path).status_code in (303, 401)
        # The session's secret under the names of other doors' cookies opens them no more.
        (secret,) = ann.cookies.values()
        for name in (login.cookie_name(False), login.cookie_name(False, "/r/yard")):
            with httpx.Client(base_url=served.url, cookies={name: secret}) as thief:
                assert thief.get("/home-api/rows").status_code == 401
                assert thief.get("/r/yard/api/status").status_code == 401
                assert thief.get("/r/people/api/status").status_code == 401
    with httpx.Client(base_url=served.url) as bob:
        for elsewhere in ("/r/yard/redeem", "/redeem"):
            assert bob.post(elsewhere, json={"token": link}).status_code == 401
        assert bob.post("/r/people/redeem", json={"token": link}).status_code == 200


def test_the_folders_operator_operates_every_run_and_votes_in_none(served):
    operator = served.operator
    for run in ("people", "yard"):
        assert operator.get(f"/r/{run}/").headers["location"] == f"/r/{run}/operate/"
        assert operator.get(f"/r/{run}/api/status").status_code == 401
    assert operator.get("/r/people/panel/").headers["location"] == "/r/people/operate/"
    with Ledger.open(served.folder / "yard.db") as ledger:
        own = credentials.invite(ledger, "operator", "Yan")
    with httpx.Client(base_url=served.url) as yan:  # an operator of one run
        yan.post("/r/yard/login", json={"name": "Yan", "code": own.code})
        assert yan.get("/r/yard/").headers["location"] == "/r/yard/operate/"
        assert yan.get("/r/people/").headers["location"] == "/r/people/login"
        assert yan.get("/home-api/rows").status_code == 401
    credentials.revoke(served.ledger, "Olga", "test")
    assert operator.get("/home-api/rows").status_code == 403
    assert operator.get("/r/people/").headers["location"] == "/r/people/login"


def test_pages_show_rows_and_refuse_in_words(served):
    home = served.operator.get("/").text
    assert "no process holds its model" in home and "newer.db: schema 99" in home
    rows_ = served.operator.get("/home-api/rows")
    again = served.operator.get("/home-api/rows", headers={"If-None-Match": rows_.headers["etag"]})
    assert again.status_code == 304
    broken = served.operator.get("/r/damaged/operate/")
    assert broken.status_code == 503 and "damaged.db: the file is damaged" in broken.text
    assert str(served.folder) not in broken.text + home
    assert served.operator.get("/r/nothing/").status_code == 404
    assert served.operator.get("/compare?run=yard").status_code == 409
    policy = "default-src 'none'; script-src 'self'; style-src 'self'"
    for path in ("/", "/compare?run=yard&run=people", "/r/damaged/operate/"):
        assert served.operator.get(path).headers["content-security-policy"].startswith(policy)


def test_buttons_pause_and_resume_a_run_in_its_own_record(served):
    def act(do: str, run: str = "people") -> httpx.Response:
        return served.operator.post("/home-api/act", json={"do": do, "run": run})

    assert act("pause").json()["text"].startswith("people: Paused.")
    row = row_of(served.folder, "people")
    assert (row["state"], row["detail"]) == ("paused", "by Olga")
    assert act("resume").status_code == 200
    assert row_of(served.folder, "people")["state"] == "stopped"
    for run, words in (("nothing", "there is no run"), ("../people", "there is no run"),
                       ("damaged", "the file is damaged")):  # fmt: skip
        answer = act("pause", run)
        assert answer.status_code == 409 and words in answer.json()["message"]
    assert "no process of this server" in act("stop").json()["message"]
    fresh = make(served.folder / "fresh.db")
    bad = ["Why?", "It is. It is. It is. It is.", "length", None]
    fresh.ledger.record_event(
        sample_check.DRAWN_EVENT, "run", {"samples": [bad] * 20, "topic": False}
    )
    pauses.pause(fresh.ledger, "operator", "the first round waits for its start")
    message = act("resume", "fresh").json()["message"]
    assert message.startswith("start: people could not judge these answers: ")
    assert message.endswith("tick the box to open the run all the same, on the page of fresh")
    fresh.ledger.close()


def test_a_tag_and_a_note_stand_beside_a_run_and_leave_its_record_alone(served):
    def label(**given: str) -> httpx.Response:
        return served.operator.post("/home-api/label", json={"tag": "", "note": "", **given})

    before = (served.folder / "yard.db").read_bytes()
    assert label(run="yard", tag="trial", note="first").status_code == 200
    assert label(run="yard", tag=" kept ", note="<b>two</b> voters").status_code == 200
    rows = served.operator.get("/home-api/rows").json()["html"]
    assert '<span class="pill">kept</span>' in rows and "trial" not in rows
    assert 'href="/r/yard/operate-api/report.html" download' in rows
    assert "&lt;b&gt;two&lt;/b&gt; voters" in rows
    assert (served.folder / "yard.db").read_bytes() == before
    (last,) = list(served.ledger.events("label"))[-1:]
    assert (last["actor"], last["body"]["run"]) == ("Olga", "yard")
    assert label(run="nothing").status_code == 409
    assert label(run="yard", tag="x" * 41).status_code == 422
    assert served.nobody.post("/home-api/label", json={"run": "yard"}).status_code == 401


# ---- processes ----

CHILD = """
import signal, sys, time
print("loading", *sys.argv[1:], flush=True)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
while True: time.sleep(60)
"""
FAILING = "import sys; print('no such model', file=sys.stderr); sys.exit(2)"


@pytest.fixture
def controllers(folder):
    """controllers(code) starts children that run this code instead of szpo."""
    made: list[Controllers] = []

    def new(
        code: str = CHILD, say: Callable[[str], None] = print, features: tuple[str, ...] = ()
    ) -> Controllers:
        made.append(Controllers(folder, say, [sys.executable, "-c", code], features=features))
        return made[-1]

    yield new
    for each in made:
        each.close()


def test_a_started_process_is_stopped_in_order(controllers):
    lines: list[str] = []
    made = controllers(say=lines.append, features=("regex:^Once",))
    made.start("people")
    (line,) = until(lambda: list(lines))
    assert line.startswith("people: loading run --resume")
    assert line.endswith("people.db --stay --feature regex:^Once")
    assert made.is_alive("people") and not made.is_alive("yard")
    with pytest.raises(LeaseError, match="people has a process already"):
        made.start("people")
    child = made._driven["people"].keeper.child
    made.stop("people")
    assert not made.is_alive("people") and child.returncode == 143
    assert lines == [line], "an end that was asked for is no news"
    with pytest.raises(UsageError, match="people has no process of this server"):
        made.stop("people")


def test_a_finished_run_gets_more_votes_and_samples_from_its_process(folder, controllers):
    home = home_of(folder, controllers())
    (view,) = [each for each in page.views(home) if each["row"]["name"] == "yard"]
    assert [do for do, _ in view["actions"]] == ["more", "samples"], (
        "a model alone does nothing here"
    )
    assert ("more", "40 more votes") in view["actions"]
    said = page._act(home, "Olga", page.Action(do="more", run="yard"))
    assert said == "yard: The run ends after 64 votes now. Its model is being loaded."
    assert home.controllers.is_alive("yard")
    home.controllers.stop("yard")
    assert page._act(home, "Olga", page.Action(do="samples", run="yard")).startswith("yard: ")
    assert home.controllers.is_alive("yard")
    with Ledger.open(folder / "yard.db", readonly=True) as ledger:
        (event,) = ledger.events("budget")
        (order,) = orders.orders(ledger, "samples")
    assert (event["actor"], event["body"]) == ("Olga", {"votes": 64, "steps": None})
    assert order.by == "Olga"


def test_a_run_driven_elsewhere_gets_no_second_process(folder, controllers):
    with Ledger.open(folder / "people.db") as ledger:
        lease.acquire(ledger, "elsewhere:1:0:00000000")
    with pytest.raises(LeaseError, match="people has a process already"):
        controllers().start("people")


def test_a_second_model_starts_only_where_memory_is_left(controllers, monkeypatch):
    monkeypatch.setattr(processes, "estimate", lambda config: 3 * 2**30)
    monkeypatch.setattr(memory, "available_bytes", lambda: 4 * 2**30)
    monkeypatch.setattr(memory, "resident_bytes", lambda process: 2**29)
    made = controllers()
    made.start("people")  # the first one is nobody's rival
    until(lambda: made._driven["people"].keeper.child)  # type: ignore[union-attr]
    with pytest.raises(ResourceError) as refused:
        made.start("yard")
    # The first has taken half of its 3 GiB: 2.5 are still its own, of 4 that are free.
    assert str(refused.value) == (
        "yard needs about 3.0 GiB of memory, and 1.5 GiB are free, 2.5 GiB set aside for runs "
        "that are starting; stop another run's model first"
    )
    assert not made.is_alive("yard")
    monkeypatch.setattr(memory, "available_bytes", lambda: 6 * 2**30)
    made.start("yard")
    assert made.is_alive("yard")


def test_the_need_of_a_model_is_read_from_its_files(tmp_path):
    def need(*sets: str) -> int | None:
        return processes.estimate(settings_file.load(sets=list(sets)))

    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"torch_dtype": "bfloat16"}', encoding="utf-8")
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(2 * 10**9)  # 10⁹ numbers in bf16
    own = need(f"model.name={folder}", "model.dtype=fp32") or 0
    half = need(f"model.name={folder}", "model.dtype=bf16") or 0
    assert own - half == pytest.approx(2e9)
    assert need(f"model.name={folder}", "model.device=cuda") == processes.PROCESS
    assert need("model.name=nobody/has-this") is None


def test_a_process_that_fails_says_why_beside_its_run(folder, controllers):
    made, loading = controllers(FAILING), controllers()
    made.start("yard")
    note = until(lambda: made.notes().get("yard"))
    assert note == "ended with code 2: no such model"
    loading.begin("stopped", preset="people")
    until(lambda: loading.notes()["stopped"].startswith("loading"))
    loading.stop("stopped")
    made.begin("fresh", preset="people")
    note = until(lambda: "not set up" in (found := made.notes().get("fresh", "")) and found)
    assert note == "not set up: no such model"
    assert not made.is_alive("fresh") and not (folder / "fresh.db").exists()


def test_a_new_run_is_checked_before_a_process_begins(folder, controllers):
    made = controllers()
    (folder / "mine.toml").write_text("[panel]\nkind = 'people'\n", encoding="utf-8")
    with pytest.raises(StorageError, match=r"yard\.db exists"):
        made.begin("yard", file="mine.toml")
    with pytest.raises(UsageError, match="a preset or from a settings file: choose one"):
        made.begin("fresh")
    with pytest.raises(UsageError, match="is not a settings file"):
        made.begin("fresh", file="../mine.toml")
    with pytest.raises(UsageError, match="no preset"):
        made.begin("fresh", preset="nothing")
    assert made.notes() == {}
    lines: list[str] = []
    told = controllers(say=lines.append)
    told.begin("fresh", file="mine.toml")
    (line,) = until(lambda: list(lines))
    assert line.split("loading ")[1] == (
        f"run {folder / 'mine.toml'} --set run.name=fresh --set run.folder={folder} --stay --hold"
    )
    told.stop("fresh")


# ---- the command ----

SERVE = ("serve", "--port", "0")


def test_folders_that_cannot_be_served_are_one_line(tmp_path, capsys):
    (tmp_path / "letters.txt").write_text("dear", encoding="utf-8")
    message = refused(capsys, 2, *SERVE, str(tmp_path))
    assert "holds neither a run (*.db) nor a settings file" in message
    assert not (tmp_path / access.FILE).exists()
    assert "no run" in refused(capsys, 2, *SERVE, str(tmp_path / "missing"))
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "begin on its home page" in refused(capsys, 2, *SERVE, str(empty), "--preset", "people")
    with address.announce_folder(empty, "http://127.0.0.1:7860"):
        message = refused(capsys, 3, *SERVE, str(empty))
        assert message.startswith(f"{empty} is served at http://127.0.0.1:7860 already")
    (empty / address.FOLDER_FILE).mkdir()  # stands for a folder without leave to write
    assert refused(capsys, 4, *SERVE, str(empty)) == f"{empty} cannot be written (Is a directory)"


def test_a_run_comes_before_a_folder_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("runs", "mine", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "runs" / "mine.db").touch()
    found = [address.is_folder(word, Path("runs")) for word in ("mine", "./mine/", "other", "no")]
    assert found == [False, True, True, False]


def test_invitations_lead_to_the_run_below_the_folders_address(folder, capsys):
    run = folder / "people.db"
    with address.announce_folder(folder, "https://panel.example"):
        assert call(["invite", str(run)]) == 0
        assert "link (once): https://panel.example/r/people/login#t=" in capsys.readouterr().out
        with address.announce(run, "http://127.0.0.1:7999"):  # the run's own server comes first
            assert address.read_address(run) == "http://127.0.0.1:7999"
        assert call(["invite", str(folder), "--role", "operator", "--name", "Ann"]) == 0
        assert "link (once): https://panel.example/login#t=" in capsys.readouterr().out
        assert call(["invite", str(folder), "--revoke", "Ann"]) == 0
        assert "Ann: 2 credentials revoked" in capsys.readouterr().out
    assert address.read_address(run) is None
    message = refused(capsys, 2, "invite", str(folder))
    assert "add --role operator, or name one of its runs" in message


pytest_plugins = ["tests.support.browser"]

HOSTILE = '<img src=x onerror="window.pwn=1">'


@pytest.fixture(scope="module")
def home(tmp_path_factory, chromium):
    """Two measured runs, one that people vote on, a damaged one with a hostile name: the folder,
    its address under a server, and its operator's page in a browser."""
    made = yard_run.make(tmp_path_factory.mktemp("yard"), "evaluation.along=1", "run.votes=40")
    folder = tmp_path_factory.mktemp("folder")
    for name in ("first", "second"):
        shutil.copy(made, folder / f"{name}.db")
    people = make(folder / "people.db", sets=[f"panel.guideline={HOSTILE}"])
    play(people, 1)
    people.ledger.close()
    (folder / "<img src=x onerror=pwn=1>.db").write_text("no ledger", encoding="utf-8")
    with serving(folder) as (url, ledger):
        context = chromium.new_context(base_url=url)
        context.set_default_timeout(60_000)
        page = context.new_page()
        page.goto(link(url, credentials.invite(ledger, "operator", "Olga").token))
        page.wait_for_selector("#rows")
        yield SimpleNamespace(folder=folder, url=url, page=page)
        context.close()


def test_the_home_page_follows_its_runs_and_leads_to_each(home):
    page = home.page.context.new_page()
    page.clock.install()
    page.goto("/")
    row = page.locator("tr[data-run=people]")
    assert "stopped" in row.inner_text() and "4 of 400" in " ".join(row.inner_text().split())
    page.check("tr[data-run=people] input")
    page.focus("tr[data-run=people] button")
    with Ledger.open(home.folder / "people.db") as ledger:
        pauses.pause(ledger, "Ann", "lunch")
        page.clock.fast_forward(5_000)
        page.wait_for_selector("tr[data-run=people] .pill-paused")  # nobody pressed anything
        assert "by Ann: lunch" in row.inner_text()
        assert page.is_checked("tr[data-run=people] input"), "what was ticked stays"
        assert page.evaluate("document.activeElement.dataset.run") == "people"
        page.click("tr[data-run=people] button[data-do=resume]")
        page.wait_for_selector("tr[data-run=people] .pill-stopped")
    address = page.get_attribute("tr[data-run=people] a", "href")
    page.close()
    page = home.page
    page.goto(address)
    page.wait_for_selector("#op-root[data-version]")
    assert page.url == f"{home.url}/r/people/operate/"
    assert page.get_by_text("All runs").get_attribute("href") == "/"
    page.click("text=What was voted on")
    page.wait_for_url("**/r/people/operate/votes")
    assert page.locator("h1").count() == 1


def test_rows_are_sorted_and_noted_and_show_their_gain_over_votes(home):
    page = home.page.context.new_page()
    page.goto("/")

    page.click("tr[data-run=second] [data-noted]")
    page.get_by_label("Tag", exact=True).fill("kept")
    page.get_by_label("Note", exact=True).fill("two voters")
    page.keyboard.press("Enter")
    page.locator("tr[data-run=second] .pill", has_text="kept").wait_for()
    assert "two voters" in page.locator("tr[data-run=second]").inner_text()

    def names() -> list[str]:
        found = page.locator("#rows tr").evaluate_all("rows => rows.map((r) => r.dataset.run)")
        return [name for name in found if name in ("first", "second", "people")]

    for label, expected in {
        "best first": ["first", "second", "people"],
        "by tag": ["second", "people", "first"],
        "by name": ["first", "people", "second"],
        "most votes": ["first", "second", "people"],
    }.items():
        page.get_by_label("Sort", exact=True).select_option(label=label)
        until(lambda expected=expected: names() == expected)
    assert page.locator("tr[data-run=first] .op-spark").count() == 1
    assert page.locator("tr[data-run=people] .op-spark").count() == 0
    page.close()


def test_runs_side_by_side_are_hovered_zoomed_and_read_by_keys(home):
    page = home.page
    page.goto("/")
    assert page.get_attribute("#compare", "aria-disabled") == "true"
    for name in ("first", "second", "people"):
        page.check(f"tr[data-run={name}] input")
    page.click("#compare")
    page.wait_for_selector("body[data-drawn]")
    chart = page.locator(".chart[data-key=length]")
    plot, reading = chart.locator(".plot"), chart.locator(".reading")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()

    def at(share: float) -> tuple[float, float]:
        return box["x"] + box["width"] * share, box["y"] + box["height"] / 2

    page.mouse.move(*at(0.98))
    rows = chart.locator("tbody tr", has_text="first")
    votes, _, value = (rows.last.locator("td").nth(i).text_content() for i in range(3))
    head, *lines = reading.inner_text().splitlines()
    assert head == f"{votes} votes", "the last step is the nearest one"
    assert lines[0].startswith("first: ") and float(lines[0].split()[1]) == pytest.approx(
        float(value), abs=0.06
    )
    assert lines[0].removeprefix("first") == lines[1].removeprefix("second")
    assert len(lines) == 3 and "people: " in lines[2] and "(at 4)" in lines[2]

    def ticks() -> list[str]:
        return chart.locator("svg text[text-anchor=middle]").all_text_contents()

    whole = ticks()
    page.mouse.move(*at(0.5))
    page.mouse.down()
    page.mouse.move(*at(0.8), steps=4)
    page.mouse.up()
    assert chart.get_attribute("data-zoomed") == "1" and ticks() != whole
    assert min(float(tick) for tick in ticks()) > 0
    plot.dblclick()
    assert chart.get_attribute("data-zoomed") == "" and ticks() == whole
    plot.focus()
    for key in ("Escape", "ArrowRight"):
        page.keyboard.press(key)
    assert reading.inner_text().startswith("4 votes"), "the first point of any run"
    page.keyboard.press("+")
    assert chart.get_attribute("data-zoomed") == "1"
    page.keyboard.press("0")
    assert chart.get_attribute("data-zoomed") == ""
    page.check("input[name=axis][value='1']")
    assert "answers read" in chart.locator("svg").text_content()
    assert ticks() != whole


def test_ticks_of_an_axis_are_labelled_with_their_own_values(home):
    """A step of 2.5 was labelled 25, 23, 20, 18, 15, 13."""
    page = home.page.context.new_page()
    series = [[[4, 4, 12.6, None, None], [8, 8, 25.0, None, None]]]
    chart = {"key": "length", "title": "", "reference": None, "series": series}
    answer = {"runs": ["first"], "charts": [chart]}
    page.route("**/home-api/curves*", lambda route: route.fulfill(json=answer))
    page.goto("/compare?run=first&run=second")
    page.wait_for_selector("body[data-drawn]")
    labels = page.locator(".chart[data-key=length] svg text[text-anchor=end]")
    values = [float(text) for text in labels.all_text_contents() if text != "votes"]
    steps = {round(b - a, 9) for a, b in itertools.pairwise(values)}
    assert len(values) > 3 and steps == {2.5}
    page.close()


def test_axe_finds_nothing_and_320_pixels_are_enough(home):
    page = home.page
    for place in ("/", "/compare?run=first&run=second&run=people", "/r/nothing/"):
        page.goto(place)
        if place.startswith("/compare"):
            page.wait_for_selector("body[data-drawn]")
        assert misfits(page, *NARROW, root="main", bar=".top") == [], place
        assert in_both_colours(page) == [], place
    page.goto("/")
    for opener in ("#new", "tr[data-run=first] [data-noted]"):
        page.click(opener)
        assert violations(page) == [], opener
        page.click("dialog[open] [data-close]")
    assert page.evaluate("window.pwn") is None
    page = page.context.new_page()  # a report opened from where it was kept
    page.set_content(page.request.get("/r/first/operate-api/report.html").text())
    page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    assert misfits(page, *NARROW, root="main", bar="nav") == []
    page.set_viewport_size({"width": 360, "height": 740})  # where tables scroll
    assert in_both_colours(page) == []
    page.close()


def test_a_panelist_votes_below_the_runs_name(home, chromium):
    context = chromium.new_context(base_url=home.url)
    context.set_default_timeout(60_000)
    page = context.new_page()
    foreign: list[str] = []
    page.on("request", lambda request: foreign.append(request.url))
    with Ledger.open(home.folder / "people.db") as ledger:
        token = credentials.invite(ledger, "panelist").token
    page.goto(link(f"{home.url}/r/people", token))  # as ``szpo invite`` prints it
    page.wait_for_selector("#szpo-root[data-state=welcome]")
    assert page.url == f"{home.url}/r/people/panel/"
    assert page.evaluate("window.pwn") is None
    outside = [u for u in foreign if not u.startswith((f"{home.url}/r/people/", "data:", "blob:"))]
    assert {u.removeprefix(home.url).split("/")[1] for u in outside} <= {"static"}
    page.goto("/")
    assert page.url == f"{home.url}/login"
    context.close()
