"""The engine over vLLM servers, against a server that keeps vLLM's contract or breaks it."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from szpo.cli.app import call
from szpo.config import settings_file
from szpo.config.tables import Engine
from szpo.errors import IntegrityError, RunError, UsageError
from szpo.models import answer_shares, loading
from szpo.models.sampling import Sampling
from szpo.optim import parameters, sample_directions
from szpo.policies import vllm_servers
from szpo.policies.lora_policy import LoraPolicy
from szpo.policies.vllm_checks import ServedAnswers
from szpo.policies.vllm_engine import VllmBackend
from szpo.runs import run_engine
from szpo.types import Batch, Shift
from tests.support import folder_run, lora_folders
from tests.support.policies import SHORT_PROMPTS, small
from tests.support.vllm_server import Faults, VllmServer
from tests.support.waiting import until

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's, in the server's threads
KEY = "sk-test-0123456789abcdef"
PROMPTS = SHORT_PROMPTS[:4]
SHIFTS = [Shift(2, 0, sign, 0.75) for sign in (1, -1)]
slow = partial(pytest.param, marks=pytest.mark.slow)
COMPLETIONS = "/v1/completions"


@pytest.fixture(scope="module")
def policy(model):
    base = loading.load(str(model), dtype="fp32")
    sampling = Sampling(max_new_tokens=6)
    return LoraPolicy(base, small(base), root_seed=5, sampling=sampling)


@pytest.fixture(scope="module")
def running(model):
    server = VllmServer(model)
    yield server
    server.close()


@pytest.fixture
def server(running):
    running.reset()
    return running


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    """Neither OpenAI's client nor szpo waits before the next try."""
    monkeypatch.setattr(
        "openai._base_client.BaseClient._calculate_retry_timeout", lambda *_: 0.001
    )
    monkeypatch.setattr(vllm_servers, "RETURN_S", 0.01)
    monkeypatch.setattr(vllm_servers, "PATIENCE_S", 60.0)


@contextlib.contextmanager
def served(
    policy: LoraPolicy, *urls: str, each_row: bool = False, **settings: Any
) -> Iterator[ServedAnswers]:
    engine = Engine(kind="vllm", address=list(urls), **{"chunk_rows": 4, **settings})
    here, there = policy.backend, VllmBackend(policy.held, engine, each_row=each_row)
    policy.backend = there.at(policy.subspace, policy.space, run=True)
    try:
        yield there._served[0]
    finally:
        policy.backend = here
        there.close()


def rollout(policy: LoraPolicy, seed: int = 4) -> list[Batch]:
    return policy.rollout([PROMPTS] * 2, SHIFTS, seed=seed)


@pytest.fixture(scope="module")
def wanted(policy, running):
    """What the server answers where nothing fails: in fp32 and by seeds, so always the same."""
    running.reset()
    with served(policy, running.url):
        return rollout(policy)


def test_the_doctor_measures_a_step_on_servers(server, model):
    """Two chunks on one server take twice as long as one."""
    sets = [f"model.name={model}", "model.dtype=fp32", "engine.kind=vllm", "engine.chunk_rows=2",
            f'engine.address=["{server.url}"]', "optimizer.D=2",
            "optimizer.K=1", "generation.max_new_tokens=4"]  # fmt: skip
    engine, step = run_engine.examine_engine(settings_file.load(sets=sets), "w20 w21")
    assert (engine.status, step.status) == ("ok", "ok")
    assert engine.text.startswith(f"vLLM {server.version} at {server.url}")
    found = re.match(r"4 rows in 2 chunks of 2, about (\S+) s \((\S+) s a chunk", step.text)
    assert found is not None, step.text
    assert float(found[1]) == pytest.approx(2 * float(found[2]), abs=0.07)
    server.faults.reply = lambda path, body, n: "500" if path == COMPLETIONS else None
    (check,) = run_engine.examine_engine(settings_file.load(sets=sets), "w20 w21")
    assert (check.status, check.text) == (
        "fail", f"{server.url}: HTTP 500 at {COMPLETIONS}, 5 times"
    )  # fmt: skip


def test_a_server_that_is_not_there_is_refused_in_a_line(tmp_path, capsys):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    line = ["run", "--preset", "tiny", "--folder", str(tmp_path), "--set", "engine.kind=vllm"]
    assert call([*line, "--set", f'engine.address=["{url}"]']) == 2
    message = capsys.readouterr().err.strip().splitlines()
    assert len(message) == 1 and f"engine.address: {url} cannot be reached" in message[0]


def test_answers_are_cut_once_the_servers_have_been_checked(policy, server, wanted, monkeypatch):
    """The model of tests writes no marks: here a sentence ends after the first word."""
    monkeypatch.setattr(answer_shares, "sentence_ends", lambda text, **_: [len(text.split()[0])])
    monkeypatch.setattr(policy, "sampling", replace(policy.sampling, whole_sentences=True))
    with served(policy, server.url, each_row=True) as answers:
        found = rollout(policy)
        assert answers.rescored >= 2 * len(PROMPTS) and not answers.refused
    for short, long in zip(itertools.chain(*found), itertools.chain(*wanted), strict=True):
        assert short == (
            long if long.end == "stop" else replace(long, text=long.text.split()[0], tokens=1)
        )


def test_names_come_once_adapters_wait_and_every_row_has_its_seed(
    policy, server, wanted, tmp_path
):
    with served(policy, server.url, adapters=str(tmp_path)) as answers:
        assert rollout(policy) == wanted  # by seeds, whatever the batches are
        assert rollout(policy, seed=5) != wanted
        base = policy.sample(PROMPTS[:1], 2, seed=1, base=True)
        assert len({answer.text for answer in base[0]}) == 2
        assert answers.rescored >= 4 and not answers.refused
        until(lambda: not server.adapters)  # what is not needed is unloaded
        until(lambda: not list(tmp_path.glob("*/*")))
    assert not list(tmp_path.iterdir())
    assert len(server.names) == len(set(server.names)) == 2 + 2 + 2 + 1
    assert not server.changed_in_flight
    asked = [body for body in server.requests if body["max_tokens"] == 6]
    plus, minus = ([b["seed"] for b in asked[:8] if b["model"] == n] for n in server.names[2:4])
    assert sorted(plus) == sorted(minus) and len(set(plus)) == 4  # both sides draw alike


def test_a_direction_on_record_is_asked_as_the_seeds_own(
    policy: LoraPolicy, server: VllmServer, wanted: list[Batch]
) -> None:
    def recorded(shift: Shift) -> Shift:
        v = (
            parameters.direction_vector(policy.space, shift.step, shift.k)
            * sample_directions.PER_UNIT
        )
        return replace(shift, step=99, grid=tuple(int(x) for x in v))

    with served(policy, server.url):
        assert policy.rollout([PROMPTS] * 2, [recorded(s) for s in SHIFTS], seed=4) == wanted


def test_a_server_that_lost_its_adapters_shows_itself_again_and_gets_them(policy, server, wanted):
    with served(policy, server.url):
        policy.sample(PROMPTS[:1], seed=1)
        lost = []

        def restart(path: str, body: dict[str, Any], n: int) -> None:
            if path == COMPLETIONS and not lost:
                lost.append(n)
                server.restart()

        server.faults = Faults(reply=restart)
        assert rollout(policy) == wanted
        assert lost
        canaries = [body["seed"] for body in server.requests if body["max_tokens"] == 16]
        assert len(canaries) == 2 * 24  # at first, and after the restart


def test_another_adapters_answers_are_noticed_and_asked_again(policy, server, wanted, caplog):
    with served(policy, server.url) as answers:
        policy.sample(PROMPTS[:1], seed=1)
        first = {f"{server.names[0][:-1]}{n}" for n in (3, 4)}
        swap = dict(zip(sorted(first), sorted(first, reverse=True), strict=True))
        server.faults = Faults(writer=lambda name: swap.get(name, name))
        assert rollout(policy) == wanted
        assert answers.refused == 2
    (line,) = [record.getMessage() for record in caplog.records if record.name == "szpo"]
    assert "answers with other adapters than it was asked for (4 of 4 rows of a chunk)" in line


@pytest.mark.parametrize("kind", [slow("writer"), "stale"])
def test_a_server_that_goes_on_with_another_adapter_is_refused(policy, server, kind):
    """One slot for all names after the canary, or the base model in place of every adapter."""
    with served(policy, server.url) as answers:
        policy.sample(PROMPTS[:1], seed=1)
        known = set(server.names)
        if kind == "stale":
            server.faults = Faults(stale=lambda name: name if name in known else "slot")
        else:
            server.faults = Faults(writer=lambda name: server.model)
        with pytest.raises(IntegrityError, match=r"than it was asked for .*, 3 times") as error:
            rollout(policy)
        assert answers.refused >= 3 and error.value.exit_code == 5


@pytest.mark.slow
def test_whoever_failed_once_has_all_its_rows_rescored(policy, server, wanted, monkeypatch):
    """Of each member two rows of 6 tokens are read, and after a failure all 8 of the chunk."""
    monkeypatch.setattr("szpo.policies.vllm_checks.TOKENS", 12)
    with served(policy, server.url, chunk_rows=8) as answers:
        policy.sample(PROMPTS[:1], seed=1)
        before, wrong = answers.rescored, []

        def writer(name: str) -> str:
            if not server.is_canary(name) and not wrong:
                wrong.append(name)
            return server.model if name in wrong else name

        server.faults = Faults(writer=writer)
        assert rollout(policy) == wanted
        assert answers.rescored - before == 4 + 8 + 4
        assert answers.refused == 1


@pytest.mark.parametrize(("each_row", "rescored"), [(False, 2), (True, 8 + 8 + 8)])
def test_where_people_vote_one_stale_row_of_many_is_noticed(
    policy, server, wanted, monkeypatch, each_row, rescored
):
    """The shortest answer, which the first look at each member's longest ones leaves out."""
    monkeypatch.setattr("szpo.policies.vllm_checks.TOKENS", 6)
    with served(policy, server.url, chunk_rows=8, each_row=each_row) as answers:
        policy.sample(PROMPTS[:1], seed=1)
        before, gathered, stale = answers.rescored, answers._gather, []

        def gather(asked: Any, chunks: Any) -> Any:
            replies = gathered(asked, chunks)
            if stale:
                return replies
            (first,) = replies
            last = first.answers[-1]
            stale.append(replace(last, logprobs=tuple(x - 0.3 for x in last.logprobs)))
            return [replace(first, answers=(*first.answers[:-1], *stale))]

        monkeypatch.setattr(answers, "_gather", gather)
        assert rollout(policy) == wanted
        assert answers.refused == each_row and answers.rescored - before == rescored


@pytest.mark.parametrize(
    ("options", "faults", "error", "words"),
    [
        slow({"prefix_caching": True}, {}, IntegrityError, "--no-enable-prefix-caching"),
        slow({"dtype": torch.bfloat16}, {}, IntegrityError, "another model or dtype"),
        slow({"other": True}, {}, IntegrityError, "another model or dtype"),
        ({"key": "another"}, {}, UsageError, r"refuses the key \(HTTP 401\); check \$VLLM_API_K"),
        ({}, {"seeds": "random"}, IntegrityError, "ignores seeds: . of 8 rows had another"),
        slow({}, {"seeds": "one"}, IntegrityError, "ignores seeds: 8 of them gave one answer"),
        ({}, {"writer": "base"}, IntegrityError, "adapters that are not applied"),
    ],
)
def test_a_server_that_is_not_the_runs_is_refused_before_any_row(
    policy, server, model, tmp_path,
    options, faults, error, words):  # fmt: skip
    one = server
    if options:
        path = folder_run.model(tmp_path, "mistral") if options.pop("other", None) else model
        one = VllmServer(path, **options)
    if faults.get("writer") == "base":
        faults = {"writer": lambda name: one.model}
    one.faults = Faults(**faults)
    try:
        with served(policy, one.url), pytest.raises(error, match=words):
            rollout(policy)
        assert not [body for body in one.requests if body["max_tokens"] == 6]
    finally:
        if one is not server:
            one.close()


def test_replicas_of_two_versions_are_refused(policy, server, model):
    other = VllmServer(model, version="0.29.0")
    with served(policy, server.url, other.url), pytest.raises(IntegrityError) as error:
        for _ in range(20):  # one server may answer all before the other is looked at
            rollout(policy)
    other.close()
    assert "start all servers from one version" in str(error.value)


def test_several_replicas_share_the_chunks_and_one_takes_over(policy, server, model, wanted):
    other = VllmServer(model)
    with served(policy, server.url, other.url, chunk_rows=2):
        until(lambda: rollout(policy) == wanted and len(other.requests) >= 26)
        other.close()
        assert rollout(policy) == wanted
    assert len([body for body in other.requests if body["max_tokens"] == 6]) >= 2


def test_a_slow_server_is_asked_once_and_joins_a_later_step(policy, server, model, wanted):
    other, go = VllmServer(model), threading.Event()
    other.faults.reply = lambda path, body, n: (
        None if path != COMPLETIONS or go.wait(60) else "500"
    )
    with served(policy, server.url, other.url, chunk_rows=2):
        for _ in range(3):
            assert rollout(policy) == wanted
        go.set()
        until(lambda: rollout(policy) == wanted and {16, 6} <= lengths(other))
        assert len([body for body in other.requests if body["max_tokens"] == 16]) == 24
    other.close()


def lengths(server: VllmServer) -> set[int]:
    """How many tokens a server was asked for: 16 by a canary, 6 by a step."""
    return {body["max_tokens"] for body in list(server.requests)}


@pytest.mark.slow
def test_members_that_the_cast_makes_one_are_refused(policy, server):
    near = [Shift(0, k, 1, 2.0**-60) for k in (0, 1)]
    with served(policy, server.url), pytest.raises(RunError, match="one policy in the servers' d"):
        policy.rollout([PROMPTS] * 2, near, seed=4)


def test_a_server_gets_mixes_of_adapters_with_their_weights_multiplied_in(
    model, tmp_path, monkeypatch
):
    """A whole run whose every row is rescored here: the server's policies are this process's."""
    one = VllmServer(model)
    adapters = lora_folders.write_shapes(tmp_path / "adapters")
    sets = ["engine.kind=vllm", f'engine.address=["{one.url}"]', "optimizer.rule=known",
            f"subspace.adapters={json.dumps(adapters)}"]  # fmt: skip
    path = folder_run.make(tmp_path, *sets, model_folder=model)
    one.close()
    assert call(["verify", str(path)]) == 0


def test_a_run_by_a_server_ends_verifies_and_tells_nobody_the_key(
    model, tmp_path, monkeypatch, capfd, caplog
):
    """The server sends the key back in every refusal; it stands in no file and no output."""
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    one = VllmServer(model, key=KEY)
    one.faults = Faults(reply=lambda path, body, n: "429" if n % 7 == 0 else None)
    sets = ["engine.kind=vllm", f'engine.address=["{one.url}"]']
    with caplog.at_level("DEBUG"):
        path = folder_run.make(tmp_path, *sets, model_folder=model)
        place = ["--folder", str(path.parent)]
        assert call(["verify", "folder", "--steps", *place]) == 0
        assert call(["export", "folder", "--votes", str(tmp_path / "all.jsonl"), *place]) == 0
        assert call(["report", "folder", *place]) == 0
        one.faults = Faults(reply=lambda path, body, n: "400")
        again = folder_run.arguments(tmp_path, *sets, "run.name=other", model_folder=model)
        assert call(again) == 2
    one.close()
    out, err = capfd.readouterr()
    assert "refuses /v1/load_lora_adapter (HTTP 400: no: Bearer [key])" in err
    files = [p for p in tmp_path.rglob("*") if p.is_file() and model not in p.parents]
    assert len(files) >= 3
    for text in (out, err, caplog.text):
        assert KEY not in text
    assert not [p for p in files if KEY.encode() in p.read_bytes()]
