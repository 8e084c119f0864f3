"""From a run's configuration to the optimizer's settings, and those in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from szpo.config.schema import Config
from szpo.optim import optimizer
from szpo.optim.checked_settings import defaults
from szpo.optim.directions import Law
from szpo.optim.parameters import layout_dim
from szpo.optim.settings import Adam, Selection, Settings
from szpo.types import Layout

WARMUP = 5
"""Steps that measure α where it cannot be known beforehand."""


def make_settings(config: Config, layout: Layout, scale: float) -> Settings:
    """The optimizer's settings of a run in coordinates of this layout and scale.

    Raises:
        UsageError: they do not fit together, or not the coordinates.
    """
    o = config.optimizer
    dim = layout_dim(layout)
    changes: dict[str, Any] = {}
    if o.block is not None:
        changes["law"] = Law("block", min(o.block, dim))
    if o.warmup is not None:
        changes["warmup"] = o.warmup
    elif config.subspace.kind == "random" and o.rule in ("known", "margin"):
        # Nothing is known of how far votes carry along random directions: α is measured.
        changes["warmup"] = 0 if o.adam or o.alpha is not None else WARMUP
    if o.steer:
        changes["steering"] = (o.kl_radius / 4, o.kl_radius * 4)
    return defaults(
        config.run.seed,
        layout,
        rule=None if o.rule == "auto" else o.rule,
        pairing=o.pairing,
        K=o.directions,
        N=o.comparisons,
        M=o.votes,
        D=o.rows,
        mu=o.mu,
        alpha=o.alpha,
        link=o.link,
        smoothing=o.smoothing,
        ties=o.ties,
        weighting=o.weighting,
        kl_radius=o.kl_radius,
        kl_step=o.kl_step,
        scale=scale,
        forget=o.forget,
        momentum=o.momentum,
        adam=Adam() if o.adam else None,
        selection=None
        if config.selection.candidates is None
        else Selection(config.selection.candidates, config.selection.by, config.selection.floor),
        vote_price=config.selection.vote_price,
        **changes,
    )


def describe_settings(settings: Settings) -> Sequence[str]:
    """What was chosen for the run, as lines to print."""
    s = settings
    return (
        f"rule {s.rule}, {s.pairing}, K {s.K} × N {s.N} × M {s.M} votes, D {s.D} rows, link "
        f"{s.link}, ties {s.ties}, weighting {s.weighting}, seed {s.root_seed}",
        f"mu {optimizer.ask(optimizer.init(s)).mu:.4g} (KL radius {s.kl_radius:g}), KL step "
        f"{s.kl_step:g}, forget {s.forget:g}, warm-up {s.warmup} steps",
    )
