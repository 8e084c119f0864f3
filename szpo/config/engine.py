"""The settings of where answers are generated."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from szpo.config.section import Count, Section

RAY_ROWS = 32
"""Rows of a chunk for Ray's workers, where the settings leave them out."""


class Engine(Section):
    """Where answers are generated: in this process, or by workers."""

    kind: Literal["local", "ray"] = Field(
        "local", description="local: in the run's own process; ray: by Ray workers (szpo[ray])."
    )
    address: str | None = Field(
        None,
        description="host:port of a Ray cluster; left out: one of this machine's own cores. "
        "Whoever reaches a Ray cluster can run code on it.",
    )
    workers: int = Field(1, ge=1, le=4096, description="Workers; each holds the whole model.")
    cpus: int = Field(1, ge=1, le=1024, description="Cores, and threads, of a worker.")
    gpus: int = Field(0, ge=0, le=1, description="GPUs of a worker: 0 or 1.")
    chunk_rows: Count | None = Field(
        None,
        description="Rows answered at a time; part of what makes equal seeds give equal answers, "
        "unlike the number of workers. Left out: all of a step (local), 32 (ray).",
    )

    @model_validator(mode="after")
    def _fits_kind(self) -> Self:
        if self.kind == "local":
            for name in ("address", "workers", "gpus"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f'{name} goes with engine.kind "ray"; engine.kind is "local"')
        return self

    @property
    def rows(self) -> int | None:
        """Rows of a chunk; None: all of a call."""
        return RAY_ROWS if self.chunk_rows is None and self.kind == "ray" else self.chunk_rows
