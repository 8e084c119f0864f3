"""A key goes where the settings send it, past proxies on this machine, and is printed nowhere."""

import contextlib
import os
import socket
import sys
from types import SimpleNamespace
from typing import Any

import httpx
import huggingface_hub
import pytest

from szpo import keyed_requests
from szpo.cli import app, console
from szpo.config.tables import Engine, Judge
from szpo.errors import UsageError
from szpo.judges import endpoint, llm_judge
from szpo.judges.llm_judge import LanguageJudge
from szpo.judges.prompting import JudgeError
from szpo.models import named_models
from szpo.policies import vllm_engine
from szpo.runs import callbacks
from szpo.runs.callbacks import RunFacts
from tests.support.http_server import Reply, Request, serving
from tests.support.judging import comparison
from tests.support.stub_endpoint import stub_endpoint

KEY = "sk-of-this-test-0123456789"
VARIABLES = ("OPENAI_API_KEY", "VLLM_API_KEY", "HF_TOKEN", "WANDB_API_KEY")
ELSEWHERE = "http://192.0.2.7:1"
"""An address that is no machine's (RFC 5737)."""
FACTS = RunFacts("0123abcd", "mine", {})


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    """One key for everybody, and nothing that keeps proxies away."""
    monkeypatch.setattr(endpoint, "ATTEMPTS", 1)
    monkeypatch.setattr(llm_judge, "RETRIES", 0)
    for name in VARIABLES:
        monkeypatch.setenv(name, KEY)
    for name in ("NO_PROXY", "no_proxy", "WANDB_MODE"):
        monkeypatch.setenv(name, "")


@pytest.fixture
def proxied(monkeypatch):
    """What a proxy sees that the environment names for everything."""
    seen: list[Request] = []

    def answer(request: Request) -> Reply:
        seen.append(request)
        return Reply(502)

    with serving(answer) as url:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, url)
            monkeypatch.setenv(name.upper(), url)
        yield seen
    huggingface_hub.close_session()  # it knows the proxy


def judged(url: str, **settings: Any) -> Any:
    chosen = Judge(base_url=url, **settings)
    there = endpoint.connect(chosen)
    pair = comparison(("a long answer to it", "short"))
    with contextlib.closing(there.client):
        made = LanguageJudge(there, chosen, "better")
        return made.opinion(pair, panelist="p", plus_side="A", key=bytes(16))


def unanswered(url: str) -> None:
    with pytest.raises(JudgeError):
        judged(url)


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "LocalHost", "0.0.0.0"])
def test_a_judge_on_this_machine_is_asked_past_every_proxy(name, proxied):
    with stub_endpoint("longer") as stub:
        found = judged(stub.url.replace("127.0.0.1", name))
    assert proxied == []
    assert found.choice == "A" and stub.headers[0]["authorization"] == f"Bearer {KEY}"


def test_a_judge_elsewhere_is_reached_by_a_proxy_unless_it_would_see_the_key(proxied, monkeypatch):
    monkeypatch.setattr(endpoint, "TIMEOUT_S", 5)
    monkeypatch.setattr(socket.socket, "connect", refuse_elsewhere)
    monkeypatch.setenv("SZPO_INSECURE_HOSTS", "192.0.2.7")
    unanswered(f"{ELSEWHERE}/v1")
    monkeypatch.delenv("SZPO_INSECURE_HOSTS")
    assert proxied == []
    unanswered("https://192.0.2.7/v1")
    assert [seen.method for seen in proxied] == ["CONNECT"]
    monkeypatch.delenv("OPENAI_API_KEY")
    unanswered(f"{ELSEWHERE}/v1")
    assert [seen.path for seen in proxied[1:]] == [f"{ELSEWHERE}/v1/chat/completions"]
    assert KEY not in str(proxied)


BROKEN = {"ALL_PROXY": "socks5://127.0.0.1:9", "HTTPS_PROXY": "ftp://x", "NO_PROXY": "[::1]"}


@pytest.mark.parametrize("variable", BROKEN)
def test_proxies_that_cannot_be_used_are_one_line_and_none_of_this_machines_business(
    variable, monkeypatch, capfd
):
    monkeypatch.delenv("no_proxy")
    monkeypatch.setenv(variable, BROKEN[variable])
    with stub_endpoint("longer") as stub:
        assert judged(stub.url).choice == "A"
    with pytest.raises((ImportError, ValueError, httpx.InvalidURL)) as caught:
        httpx.Client()  # as a judge elsewhere, the hub's library and Gradio make one
    assert console.fail(caught.value) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert f"the proxies in {variable} cannot be used" in line
    assert not keyed_requests.blame_proxies(ValueError("too many values"))


def refuse_elsewhere(self: socket.socket, address: Any) -> None:
    """Stands for `socket.socket.connect`: nothing leaves this machine."""
    if address[0] not in ("127.0.0.1", "::1"):
        raise ConnectionRefusedError
    super(socket.socket, self).connect(address)


def test_vllm_servers_are_asked_past_every_proxy(proxied):
    heard: list[Request] = []
    with serving(lambda request: heard.append(request) or Reply()) as url:
        assert vllm_engine.unreachable(Engine(kind="vllm", address=[url])) is None
    assert proxied == [] and heard[0].headers["authorization"] == f"Bearer {KEY}"


def test_a_hub_on_this_machine_is_used_past_every_proxy(proxied, monkeypatch, tmp_path):
    heard: list[Request] = []
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    with serving(lambda request: heard.append(request) or Reply(404)) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        with pytest.raises(UsageError, match="the hub did not give it"):
            named_models.locate("nobody/nothing-at-all")
    (asked,) = (seen for seen in heard if "nothing-at-all" in seen.path)
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert proxied == []


def test_a_tracker_on_this_machine_is_used_past_every_proxy(monkeypatch, tmp_path):
    begun = []
    library = fake_wandb("http://127.0.0.5:8080")
    library.init = lambda **_: begun.append(os.environ["NO_PROXY"])
    monkeypatch.setitem(sys.modules, "wandb", library)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("NO_PROXY", "example.org")
    callbacks.WandbTracker(tmp_path).begin(FACTS)
    first, *_, last = begun[0].split(",")
    assert (first, last) == ("example.org", "127.0.0.5") and os.environ["no_proxy"] == begun[0]


def fake_wandb(base_url: str) -> Any:
    settings = SimpleNamespace(base_url=base_url)
    return SimpleNamespace(
        setup=lambda: SimpleNamespace(settings=settings), Settings=dict, init=lambda **_: None
    )


def refused(act: Any) -> str:
    with pytest.raises(UsageError) as caught:
        act()
    text = str(caught.value)
    assert KEY not in text and "\n" not in text and "unencrypted" in text
    return text


def test_a_key_goes_over_plain_http_only_where_a_setting_names_the_host(monkeypatch, tmp_path):
    def judge(**settings: Any) -> Any:
        return endpoint.connect(Judge(base_url=f"{ELSEWHERE}/v1", **settings))

    def engine(**settings: Any) -> Any:
        vllm_engine.demand(Engine(kind="vllm", address=[ELSEWHERE], **settings))

    for act, table in ((judge, "judge"), (engine, "engine")):
        text = refused(act)
        assert ELSEWHERE in text and "set SZPO_INSECURE_HOSTS to 192.0.2.7" in text
        assert text.startswith(table)
    monkeypatch.setenv("SZPO_INSECURE_HOSTS", "192.0.2.8,2.7")
    refused(judge)
    refused(engine)
    monkeypatch.setenv("SZPO_INSECURE_HOSTS", "192.0.2.8, 192.0.2.7")
    assert judge().key == KEY
    with pytest.raises(UsageError, match=r"engine\.adapters is missing"):
        engine()
    monkeypatch.setenv("HF_ENDPOINT", ELSEWHERE)
    assert "HF_ENDPOINT" in refused(lambda: named_models.locate("nobody/nothing-at-all"))
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setitem(sys.modules, "wandb", fake_wandb(ELSEWHERE))
    assert "WANDB_BASE_URL" in refused(lambda: callbacks.WandbTracker(tmp_path).begin(FACTS))


@pytest.mark.parametrize("key", [f"{KEY}\n", "sk-schlüssel-0123456789"])
def test_a_key_that_fits_into_no_header_is_refused_in_a_line(key, monkeypatch):
    for name, act in (
        ("OPENAI_API_KEY", lambda: judged("http://127.0.0.1:9/v1")),
        ("VLLM_API_KEY", lambda: vllm_engine.demand(Engine(kind="vllm", address=[ELSEWHERE]))),
    ):
        monkeypatch.setenv(name, key)
        with pytest.raises(UsageError, match=rf"\${name} must be printable ASCII") as caught:
            act()
        assert key.strip() not in str(caught.value)


def test_names_of_this_machine_are_known(monkeypatch):
    here = ("localhost", "LocalHost.", "127.0.0.1", "127.8.9.10", "::1", "0.0.0.0", "::",
            "::ffff:127.0.0.1")  # fmt: skip
    assert all(map(keyed_requests.is_here, here))
    resolved = {"box": ["127.0.1.1"], "a.localhost": ["127.0.0.1", "::1"], "far": ["127.0.0.1"]}

    def look(name: str, *_: Any, **__: Any) -> Any:
        return [(0, 0, 0, "", (address, 0)) for address in resolved[name]]

    monkeypatch.setattr(socket, "gethostname", lambda: "Box.example.org")
    monkeypatch.setattr(socket, "getaddrinfo", look)
    assert keyed_requests.is_here("box") and keyed_requests.is_here("a.localhost")
    resolved |= {"box": ["127.0.1.1", "10.0.0.5"], "a.localhost": ["10.0.0.5"]}
    away = ("box", "a.localhost", "far", "10.0.0.5", "localhost.example.org", "", "127.1")
    assert not any(map(keyed_requests.is_here, away))


def test_no_error_warning_or_traceback_holds_a_key(monkeypatch, capsys, tmp_path):
    def broken(**_: Any) -> None:
        raise ValueError(f"Illegal header value b'Bearer {KEY}'")

    library = fake_wandb("https://api.wandb.ai")
    library.init = broken
    monkeypatch.setitem(sys.modules, "wandb", library)
    lines: list[str] = []
    callbacks.NeverFatal(callbacks.WandbTracker(tmp_path), "wandb", lines.append).begin(FACTS)
    monkeypatch.setattr(app.Commands, "main", lambda *_, **given: broken())
    for name in ("signal", "pthread_sigmask"):  # children of this process would inherit them
        monkeypatch.setattr(app.signal, name, lambda *_: None)
    for options in ([], ["--debug"]):
        with contextlib.suppress(SystemExit):
            app.main([*options, "runs"])
    found = capsys.readouterr()
    assert "Traceback" in found.err and found.err.count("Bearer [key]") == 2
    assert "Bearer [key]" in lines[0] and KEY not in found.out + found.err + lines[0]


def test_a_password_in_the_hubs_address_is_not_printed(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://me:secret-word@127.0.0.1:9")
    with pytest.raises(UsageError, match="the hub did not give it") as caught:
        named_models.locate("nobody/nothing-at-all")
    assert "secret-word" not in str(caught.value)
