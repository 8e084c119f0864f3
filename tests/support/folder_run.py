"""A run of a tiny random Llama in a local folder, through the command line; takes seconds."""

import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from szpo.cli.app import call
from tests.support import tiny_models, yard_run
from tests.support.yard_run import ONCE


@cache
def _saved(name: str, positions: int | None) -> Path:
    target = Path(ONCE.name, f"{name}-{positions}")
    made = tiny_models.build(name)
    if positions is not None:
        made.config.max_position_embeddings = positions
    made.save_pretrained(target)
    tiny_models.tokenizer().save_pretrained(target)
    return target


def model(
    folder: Path, name: str = "llama", positions: int | None = None, words: Sequence[str] = ()
) -> Path:
    """A model's folder as downloaded from the hub; ``positions``: its longest context, in tokens.

    ``words``: two words that replace the last ones of its tokenizer.
    """
    made = Path(shutil.copytree(_saved(name, positions), folder / name))
    text = (made / "tokenizer.json").read_text(encoding="utf-8")
    for number, word in enumerate(words, 318):
        text = text.replace(f'"w{number}"', f'"{word}"')
    (made / "tokenizer.json").write_text(text, encoding="utf-8")
    return made


def prompts(folder: Path) -> Path:
    path = folder / "prompts.txt"
    path.write_text("\n".join(f"w{i} w{i + 1}" for i in range(20, 60, 2)), encoding="utf-8")
    return path


def arguments(folder: Path, *sets: str, model_folder: Path) -> list[str]:
    """``szpo run …`` for the model, with its file in ``folder``/runs."""
    every = [
        f"model.name={model_folder}", "model.dtype=fp32", f"prompts.path={prompts(folder)}",
        "panel.reward=length:6", "run.votes=8", "optimizer.K=4",
        "optimizer.N=1", "optimizer.D=2",
        "generation.max_new_tokens=8", "subspace.dim=4", "subspace.samples=32",
        "run.name=folder", "evaluation.prompts=1", "evaluation.samples=1",
        *sets,
    ]  # fmt: skip
    return yard_run.line(folder, every)


def make(folder: Path, *sets: str, model_folder: Path | None = None) -> Path:
    """Do a complete run; returns the ledger's file."""
    model_folder = model(folder) if model_folder is None else model_folder
    assert call(arguments(folder, *sets, model_folder=model_folder)) == 0
    return folder / "runs" / "folder.db"


@cache
def _finished() -> Path:
    return make(Path(ONCE.name))


def finished(folder: Path) -> Path:
    """A copy of the finished run that each test process makes once, without prompts and model."""
    return yard_run.copied(_finished(), folder)
