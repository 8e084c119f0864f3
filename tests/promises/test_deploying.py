"""Container, compose file and workflows: what can be held to without running them.

`make lint-deploy` runs the linters; these are the claims of docs/deploying.md.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from szpo.cli import commands
from szpo.cli.app import call

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yml").read_text(encoding="utf-8"))
WORKFLOW: dict[str, Any] = yaml.safe_load(
    (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
)
TEXTS = [ROOT / "Dockerfile", ROOT / "compose.yml", ROOT / "deploy" / "Caddyfile",
         *(ROOT / ".github").rglob("*.yml")]  # fmt: skip


def test_the_image_runs_as_nobody_in_particular_and_is_asked_how_it_is() -> None:
    lines = DOCKERFILE.splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER")]
    assert users == ["10001"]
    assert "/healthz" in next(line for line in lines if line.strip().startswith('CMD ["python"'))
    assert lines.index("USER 10001") < lines.index('ENTRYPOINT ["szpo"]')
    assert sum(line.startswith("FROM ") for line in lines) == 2
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignored  # what is not named stays out: runs, environments, this folder's history


def test_web_and_worker_are_apart_and_only_the_proxy_is_seen() -> None:
    services = COMPOSE["services"]
    web, worker, proxy = services["web"], services["worker"], services["proxy"]
    assert "--no-controller" in web["command"] and "--resume" in worker["command"]
    assert web["volumes"] == worker["volumes"] == ["data:/data"]
    assert proxy["network_mode"] == "service:web"
    # The web process stays on the loopback address: no --host, and its port is not published.
    assert not {"--host", "--insecure"} & set(web["command"])
    assert all(port.split(":")[1].startswith(("80", "443")) for port in web["ports"])
    assert "ports" not in worker
    for service in (web, worker):
        assert service["read_only"] and service["cap_drop"] == ["ALL"]
    assert "reverse_proxy 127.0.0.1:7860" in (ROOT / "deploy" / "Caddyfile").read_text()


@pytest.mark.parametrize("service", ["web", "worker"])
def test_commands_of_the_services_have_these_options(
    service: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command, *words = COMPOSE["services"][service]["command"]
    assert command in commands.COMMANDS and call([command, "--help"]) == 0
    shown = capsys.readouterr().out
    for word in words:
        assert not word.startswith("--") or re.search(rf"{word}\b", shown), word


def test_workflows_cover_what_the_docs_say_and_may_read_only() -> None:
    assert WORKFLOW["permissions"] == {"contents": "read"}
    matrix = WORKFLOW["jobs"]["newest"]["strategy"]["matrix"]
    assert matrix["python"] == ["3.11", "3.12", "3.13", "3.14"]
    assert {name.split("-")[0] for name in matrix["os"]} == {"ubuntu", "macos", "windows"}
    assert set(WORKFLOW["jobs"]) >= {"lint", "suite", "newest", "oldest", "wheel", "site", "image"}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    steps = [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]
    for step in steps:
        if target := re.match(r"make ([\w-]+)$", step.get("run", "")):
            assert re.search(rf"^{target[1]}:", makefile, re.MULTILINE), target[1]
        if step.get("uses", "").startswith("actions/checkout"):
            assert step["with"]["persist-credentials"] is False


def test_nothing_names_a_registrys_host() -> None:
    for path in TEXTS:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"pypi|pythonhosted|docker\.io|ghcr|https?://(?!127)", text.replace(
            "https://${SZPO_HOST", "")), path.name  # fmt: skip
