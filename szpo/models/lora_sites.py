"""Where an adapter sits in a base model; no tensor library, so that file writers may know it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Site:
    """One adapted weight of the base model: y = W x + scale · B A x; A is (r, in), B (out, r)."""

    name: str
    """Path of the module inside the base model, as PEFT writes it after ``base_model.model.``."""
    depth: int | None
    """Number of the decoder layer it sits in."""
    inputs: int
    outputs: int
    rank: int
    scale: float

    @property
    def a(self) -> str:
        """Name of the A factor among the coordinates."""
        return f"{self.name}.lora_A"

    @property
    def b(self) -> str:
        """Name of the B factor among the coordinates."""
        return f"{self.name}.lora_B"
