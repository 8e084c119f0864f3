"""A scene as an SVG, and the particles' path over the rounds as an animated GIF (matplotlib)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from szpo_ui.operator.posterior_scene import EXTENT, Scene

INK, DOT, ASK = "#1d1f24", "#8a2f5d", "#8a4b08"
STILL_MS = 120
SKIP = 3
"""The animation shows every third snapshot of the particles."""
MOST_ROUNDS = 16
NAMES = ("first weight", "second weight")


def svg(shown: Scene, names: Sequence[str] = NAMES) -> bytes:
    """Two plots: density, answers and final particles; entropy over the number of answers."""
    from matplotlib import rc_context

    figure = _figure(9.6)
    figure.set_layout_engine("constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.2, 1))
    _plane(left, shown, names)
    _dots(left, shown, -1)
    for label, style, line in (
        ("Gaussian", "-", [r["gaussian"] for r in shown.rounds]),
        ("nearest neighbours", "--", [r["neighbours"] for r in shown.rounds]),
    ):
        right.plot(range(len(line)), line, style, label=label)
    right.set(xlabel="answers", ylabel="entropy of the posterior, nats")
    right.xaxis.get_major_locator().set_params(integer=True)
    right.legend(frameon=False)
    file = io.BytesIO()
    with rc_context({"svg.hashsalt": "szpo"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def gif(
    rounds: Sequence[Scene], names: Sequence[str] = ("first weight", "second weight")
) -> bytes:
    """The particles' path to the posterior of each of the last `MOST_ROUNDS` scenes."""
    from PIL import Image

    figure = _figure(5.2)
    axes = figure.add_axes((0.13, 0.11, 0.85, 0.8))
    stills = []
    for shown in rounds[-MOST_ROUNDS:]:
        axes.clear()
        _plane(axes, shown, names)
        entropy = shown.rounds[-1]["gaussian"]
        title = f"{len(shown.deltas)} answers, entropy {entropy:.2f} nats"
        axes.set_title(title)
        dots = _dots(axes, shown, 0)
        for frame in [*shown.frames[:-1:SKIP], shown.frames[-1]]:
            dots.set_offsets(frame)
            figure.canvas.draw()
            still = Image.frombuffer(
                "RGBA", figure.canvas.get_width_height(), figure.canvas.buffer_rgba()
            )
            stills.append(still.convert("RGB").quantize(64, dither=Image.Dither.NONE))
    file = io.BytesIO()
    stills[0].save(file, "GIF", save_all=True, append_images=stills[1:], duration=STILL_MS, loop=0)
    return file.getvalue()


def _figure(width: float) -> Any:
    """Make a figure without pyplot, which would keep it in memory."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, 5.0), dpi=80)
    FigureCanvasAgg(made)
    return made


def _plane(axes: Any, shown: Scene, names: Sequence[str]) -> None:
    from numpy import exp, maximum

    axes.imshow(
        exp(maximum(shown.log_density, -12) / 2), cmap="Blues", vmin=0, vmax=1.4,
        extent=(-EXTENT, EXTENT, -EXTENT, EXTENT), interpolation="nearest",
    )  # fmt: skip
    for delta in shown.deltas:
        axes.annotate("", delta, (0, 0), arrowprops={"arrowstyle": "->", "color": INK})
    if shown.suggested is not None:
        axes.annotate(
            "", shown.suggested, (0, 0),
            arrowprops={"arrowstyle": "->", "color": ASK, "linestyle": "--", "linewidth": 2},
        )  # fmt: skip
    axes.set(xlim=(-EXTENT, EXTENT), ylim=(-EXTENT, EXTENT), xlabel=names[0], ylabel=names[1])
    axes.set_aspect("equal")


def _dots(axes: Any, shown: Scene, frame: int) -> Any:
    x, y = shown.frames[frame].T
    return axes.scatter(x, y, s=7, color=DOT, zorder=3)
