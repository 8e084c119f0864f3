"""Which base model to take for people, by memory: a table from model cards, and a hint from it.

The model that ships answers in seconds and well enough for a demo; a panel of people reads for
hours, so that its time is better spent on answers of a larger one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from szpo import cache

AUTO: Final = "auto"
"""The name that stands for the largest model of the table that is on this machine."""

NUMBER_BYTES: Final[Mapping[str, int]] = {"fp32": 4, "bf16": 2, "fp16": 2}
"""Bytes of a weight by `model.dtype`."""
OVERHEAD_GIB: Final = 1.5
"""Memory of a run beside the weights, GiB: the process, its batch of answers, their scores."""
CPU_BILLIONS: Final = 2.0
"""Parameters, in billions, from which a model is not advised without an accelerator."""
AUTO_BILLIONS: Final = 0.5
"""The same for a model that nobody named: a set-up of a larger one takes hours on a CPU."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model as its card describes it."""

    name: str
    billions: float
    """Parameters."""
    licence: str
    ran: str = "not run"
    """What the project has run it on."""

    @property
    def weights_gib(self) -> float:
        """Size of the weights in bf16, GiB."""
        return self.billions * 2e9 / 2**30

    def needs_gib(self, number_bytes: int = 2) -> float:
        """Memory from which to take it, GiB, for numbers of that size; an estimate."""
        return self.weights_gib * number_bytes / 2 + OVERHEAD_GIB


SHIPPED: Final = Candidate("smollm2", 0.135, "Apache 2.0", "run")
TABLE: Final = (
    SHIPPED,
    Candidate("HuggingFaceTB/SmolLM2-360M-Instruct", 0.362, "Apache 2.0"),
    Candidate("HuggingFaceTB/SmolLM2-1.7B-Instruct", 1.71, "Apache 2.0"),
    Candidate("Qwen/Qwen2.5-7B-Instruct", 7.62, "Apache 2.0"),
    Candidate("Qwen/Qwen2.5-14B-Instruct", 14.8, "Apache 2.0"),
)
"""From small to large; each answers in the form of a chat."""


def choose(
    free_gib: float,
    *,
    most_billions: float,
    number_bytes: int = 2,
    is_here: Callable[[str], bool] = lambda name: True,
) -> Candidate:
    """Choose the largest model of the table that the memory holds; smollm2 where none does.

    Args:
        free_gib: Memory that is free where the model computes, GiB.
        most_billions: Parameters that it has at most, in billions.
        number_bytes: Of a weight, as in `NUMBER_BYTES`.
        is_here: Whether a model may be taken, by its name.

    >>> choose(6.0, most_billions=2.0).name, choose(20.0, most_billions=99.0).name
    ('HuggingFaceTB/SmolLM2-1.7B-Instruct', 'Qwen/Qwen2.5-7B-Instruct')
    >>> choose(64.0, most_billions=99.0, is_here=lambda name: "360M" in name).name
    'HuggingFaceTB/SmolLM2-360M-Instruct'
    >>> choose(0.5, most_billions=2.0).name
    'smollm2'
    """
    fits = [
        each
        for each in TABLE
        if each.needs_gib(number_bytes) <= free_gib
        and each.billions <= most_billions
        and is_here(each.name)
    ]
    return fits[-1] if fits else SHIPPED


def name_auto(name: str, free_gib: float, *, accelerator: bool, number_bytes: int = 2) -> str:
    """Name the model that "auto" stands for on this machine; any other name is its own.

    Nothing is downloaded: it is a model that is in the hub's cache already, else smollm2.
    """
    if name != AUTO:
        return name
    most = float("inf") if accelerator else AUTO_BILLIONS
    return choose(
        free_gib,
        most_billions=most,
        number_bytes=number_bytes,
        is_here=lambda n: cache.hub_copy(n) is not None,
    ).name


def hint(name: str, free_gib: float, number_bytes: int = 2) -> str:
    """What to say to whoever lets people judge the model that ships; "" of any other model.

    Args:
        name: The model of the run.
        free_gib: Memory that is free on the machine, GiB; an accelerator's is not looked at.
        number_bytes: Of a weight.
    """
    if name != SHIPPED.name:
        return ""
    lead = (
        "smollm2 is the model that ships, of 135 million parameters: good for a trial, but much "
        "of what it writes is wrong, and votes of people are better spent on a larger model"
    )
    better = choose(free_gib, most_billions=CPU_BILLIONS, number_bytes=number_bytes)
    if better is SHIPPED:
        return f"{lead}; docs/hardware.md has a table by memory"
    return (
        f"{lead}; with {free_gib:.0f} GiB free this machine has room for one: --set "
        f"model.name={better.name} (from the hub; docs/hardware.md has a table by memory)"
    )
