"""Container, compose file and workflows: what can be held to without running them.

`make lint-deploy` runs the linters; these are the claims of docs/serve.md.
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
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yml").read_text(encoding="utf-8"))


def test_web_and_worker_are_apart_and_only_the_proxy_is_seen():
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
def test_commands_of_the_services_have_these_options(service, capsys):
    command, *words = COMPOSE["services"][service]["command"]
    assert command in commands.COMMANDS and call([command, "--help"]) == 0
    shown = capsys.readouterr().out
    for word in words:
        assert not word.startswith("--") or re.search(rf"{word}\b", shown), word
