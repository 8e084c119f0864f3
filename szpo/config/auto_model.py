"""Which base model to use with people, by memory: a table from model cards, and a hint.

The shipped model answers in seconds, well enough for a demo. People read for hours, so their time
is better spent on the answers of a larger model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from szpo import cache

AUTO: Final = "auto"
"""The name for the largest model that szpo's authors have run, is on this machine and fits."""

NUMBER_BYTES: Final[Mapping[str, int]] = {"fp32": 4, "bf16": 2, "fp16": 2}
"""Bytes of a weight, by `model.dtype`."""
OVERHEAD_GIB: Final = 1.5
"""Memory of a run besides the weights, GiB: the process, a batch of answers, its scores."""
CPU_BILLIONS: Final = 2.0
"""Largest model that is advised without an accelerator, in billions of parameters."""
AUTO_BILLIONS: Final = 0.5
"""Largest model that "auto" takes on a CPU, where the set-up of a larger one takes hours."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model as its card describes it."""

    name: str
    billions: float
    """Parameters."""
    licence: str
    ran: str = "not run"
    """What szpo's authors have run of it."""

    @property
    def has_run(self) -> bool:
        """Whether szpo's authors have run it."""
        return self.ran != "not run"

    @property
    def weights_gib(self) -> float:
        """Size of the weights in bf16, GiB."""
        return self.billions * 2e9 / 2**30

    def needs_gib(self, number_bytes: int = 2) -> float:
        """Memory that it needs with weights of ``number_bytes`` each, GiB; an estimate."""
        return self.weights_gib * number_bytes / 2 + OVERHEAD_GIB


SHIPPED: Final = Candidate("smollm2", 0.135, "Apache 2.0", "run")
TABLE: Final = (
    SHIPPED,
    Candidate("HuggingFaceTB/SmolLM2-360M-Instruct", 0.362, "Apache 2.0"),
    Candidate("Qwen/Qwen2.5-Coder-0.5B-Instruct", 0.494, "Apache 2.0", "run, at 4 bits"),
    Candidate("HuggingFaceTB/SmolLM2-1.7B-Instruct", 1.71, "Apache 2.0"),
    Candidate("Qwen/Qwen2.5-7B-Instruct", 7.62, "Apache 2.0"),
    Candidate("Qwen/Qwen2.5-14B-Instruct", 14.8, "Apache 2.0"),
)
"""From small to large; all are chat models."""
RAN: Final = frozenset(each.name for each in TABLE if each.has_run)


def choose(
    free_gib: float,
    *,
    most_billions: float,
    number_bytes: int = 2,
    is_here: Callable[[str], bool] = lambda name: True,
) -> Candidate:
    """Choose the largest model of the table that fits into memory; smollm2 if none does.

    Args:
        free_gib: Free memory of the device that the model runs on, GiB.
        most_billions: Most parameters, in billions.
        number_bytes: Bytes of a weight, as in `NUMBER_BYTES`.
        is_here: Whether the model of this name may be chosen.

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
    """Name the model that "auto" stands for on this machine; other names are returned unchanged.

    Nothing is downloaded: only models in the hub's cache are chosen, and only those that szpo's
    authors have run; else smollm2.
    """
    if name != AUTO:
        return name
    most = float("inf") if accelerator else AUTO_BILLIONS
    return choose(
        free_gib,
        most_billions=most,
        number_bytes=number_bytes,
        is_here=lambda n: n in RAN and cache.hub_copy(n) is not None,
    ).name


def hint(name: str, free_gib: float, number_bytes: int = 2) -> str:
    """A hint for users who let people judge the shipped model; "" for any other model.

    Args:
        name: The model of the run.
        free_gib: Free main memory of the machine, GiB; not that of an accelerator.
        number_bytes: Bytes of a weight.
    """
    if name != SHIPPED.name:
        return ""
    lead = (
        "smollm2 is the model that ships, of 135 million parameters: good for a trial, but much "
        "of what it writes is wrong, and votes of people are better spent on a larger model"
    )
    better = choose(free_gib, most_billions=CPU_BILLIONS, number_bytes=number_bytes)
    if better is SHIPPED:
        return f"{lead}; docs/how-to/your-model.md has a table by memory"
    return (
        f"{lead}; with {free_gib:.0f} GiB free this machine has room for one: --set "
        f"model.name={better.name} (from the hub; {better.ran} by szpo's authors; "
        "docs/how-to/your-model.md has a table by memory)"
    )
