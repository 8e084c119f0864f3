"""A record that came from elsewhere sends no secret: its addresses are named here first."""

import json
import stat

import pytest

from szpo.cli.app import call
from szpo.config import settings_file
from szpo.errors import UsageError
from szpo.keyed_requests import JUDGE_KEY
from szpo.ledger.database import Ledger
from szpo.replay import verification
from szpo.runs import known_addresses, run_engine
from tests.support import yard_run
from tests.support.stub_endpoint import SCRIPTS, stub_endpoint

KEY = "sk-of-another-service-0123456789"
VLLM = ("engine.kind=vllm", 'engine.address=["http://a:1", "http://b:2"]', "engine.adapters=x")
"""Of servers that are not there."""


@pytest.fixture(autouse=True)
def account(tmp_path, monkeypatch):
    """An account on which nothing was named; yields what gives another one."""

    def enter(name):
        monkeypatch.setenv("SZPO_CACHE", str(tmp_path / name))
        monkeypatch.setenv(known_addresses.TRUST_VARIABLE, "")

    enter("somebody's")
    return enter


@pytest.mark.full
def test_a_foreign_record_sends_no_secret_until_its_address_is_named(
    tmp_path, monkeypatch, capfd, account
):
    """Its judge would get this machine's key, at any address that it named."""
    monkeypatch.setenv(JUDGE_KEY, KEY)
    broken = True

    def script(request, before):
        return SCRIPTS["500" if broken else "longer"](request, before)

    with stub_endpoint(script) as stub:
        sets = (
            "run.name=yard", "panel.kind=judge",
            f"judge.base_url={stub.url}", "optimizer.N=4", "run.votes=4",
        )  # fmt: skip
        assert call(yard_run.arguments(tmp_path, *sets)) == 1
        path = tmp_path / "runs" / "yard.db"
        resume = ["run", "--resume", str(path)]
        assert call(resume) == 1, "who began it goes on after a restart, as before"
        account("mine")
        stub.headers.clear()
        capfd.readouterr()
        every = (
            resume, [*resume, "--stay"], [*resume, "--trust", "http://127.0.0.1/v1"],
            ["judge", str(path), "--once"], ["judge", str(path), "--set", "judge.max_tokens=99"],
            ["serve", str(path), "--port", "0"],
        )  # fmt: skip
        for line in every:
            assert call(line) == 2, line
            (said,) = [text for text in capfd.readouterr().err.splitlines() if "error" in text]
            assert f"{stub.url} called with the secret in ${JUDGE_KEY}" in said
            assert said.endswith(f"--trust {stub.url}, or SZPO_TRUST={stub.url}")
        assert stub.headers == []
        broken = False
        assert call([*resume, "--trust", stub.url]) == 0
        assert {head["authorization"] for head in stub.headers} == {f"Bearer {KEY}"}
    kept = tmp_path / "mine" / "addresses.jsonl"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert json.loads(kept.read_text()) == [stub.url, JUDGE_KEY]
    with Ledger.open(path, readonly=True) as ledger:
        assert verification.verify(ledger).ok


def test_a_known_address_gets_no_other_secret(monkeypatch):
    ours = settings_file.load(sets=VLLM)
    known_addresses.remember(known_addresses.calls_of_run(ours))
    known_addresses.require_trusted(known_addresses.calls_of_run(ours), "run.db")
    theirs = settings_file.load(sets=["judge.base_url=http://a:1"])
    with pytest.raises(UsageError, match=rf"http://a:1 called with the secret in \${JUDGE_KEY}"):
        known_addresses.require_trusted(known_addresses.calls_of_run(theirs), "run.db")
    monkeypatch.setenv(known_addresses.TRUST_VARIABLE, "http://a:1")
    known_addresses.require_trusted(known_addresses.calls_of_run(theirs), "run.db")


def test_workers_named_with_the_order_to_go_on_are_known(tmp_path):
    path = yard_run.finished(tmp_path)
    with Ledger.open(path) as ledger:
        ledger.spec["config"] = settings_file.load(sets=VLLM).model_dump(mode="json")
        with pytest.raises(UsageError, match="have not named that address"):
            run_engine.read_settings(ledger)
        run_engine.read_settings(ledger, {"address": ["http://a:1"]})
        with pytest.raises(UsageError, match="http://b:2"):
            run_engine.read_settings(ledger)
        moved = {"address": ["http://c:3"]}
        ledger.record_event(run_engine.ENGINE_CHANGED, "operator", moved)
        with pytest.raises(UsageError, match="http://c:3"):
            run_engine.read_settings(ledger)


@pytest.mark.parametrize("hostile", ["https://x/$(id)", "https://x/`id`;id"])
def test_what_is_to_be_copied_into_a_shell_is_quoted(hostile):
    config = settings_file.load(sets=[f"judge.base_url={hostile}"])
    with pytest.raises(UsageError) as caught:
        known_addresses.require_trusted(known_addresses.calls_of_run(config), "run.db")
    assert str(caught.value).count(f"'{hostile}'") == 3


def test_every_setting_that_names_a_secret_or_an_address_is_asked_about():
    """A new one has to be joined to `of_run`, or to be named here with a reason."""
    seen = {
        f"{table}.{key}"
        for table, keys in settings_file.SECTIONS.items()
        for key in keys
        if key.endswith(("_env", "url", "address"))
    }
    sets = [*VLLM, "judge.base_url=http://j:1"]
    config = settings_file.load(sets=sets)
    asked = {*known_addresses.calls_of_run(config)}
    ray = settings_file.load(sets=["engine.kind=ray", "engine.address=r:1"])
    asked |= {*known_addresses.calls_of_run(ray)}
    values = {part for one in asked for part in one}
    for name in sorted(seen):
        table, key = name.split(".")
        value = getattr(getattr(ray if name == "engine.address" else config, table), key)
        assert values >= (set(value) if isinstance(value, list) else {value}), name
