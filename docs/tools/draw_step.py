"""Draw docs/step.svg and the boxes of the first tutorial: python docs/tools/draw_step.py."""

from pathlib import Path

WIDTH, HEIGHT = 760, 236
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f; }
.small { font-size: 11px; fill: #57606a; }
.head { font-weight: 600; }
.box { fill: #f6f8fa; stroke: #d0d7de; rx: 8; }
.plus { stroke: #2563a8; stroke-width: 2; }
.minus { stroke: #c2571a; stroke-width: 2; }
.arrow { stroke: #6e7781; fill: none; stroke-width: 1.6; marker-end: url(#tip); }
.tip { fill: #6e7781; }
.sign { font-size: 20px; text-anchor: middle; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; } .small { fill: #9aa4ae; }
  .box { fill: #161b22; stroke: #30363d; }
  .plus { stroke: #7db4ec; } .minus { stroke: #f0a36b; }
}
"""


ROWS = {
    "install": "clone; what szpo is|→|.venv; szpo and torch, 3 GB|+|SmolLM2-135M; the base model",
    "prompts": "prompts.csv; 120 questions|→|90 to vote on; two answers each|+|"
    "30 apart; to measure",
    "look": "result; 74 % of pairs won,; [65, 81]: above one half|+|four guards; fluency, "
    "variety,; length, topic|+|texts; base and tuned,; side by side",
    "verify": "votes; as recorded|→|updates; computed anew|=|updates; as recorded, to 1e-9|→|"
    "head; one hash of all",
    "adapter": "SmolLM2-135M; as it was|+|garden-adapter; 2,880 weights|→|cheerful answers; by "
    "transformers, PEFT",
}
"""Of docs/tutorials/first-run.md: boxes (a heading; small lines) and the signs between them."""


def box(x: int, y: int, width: int, height: int, lines: list[str], kind: str = "") -> str:
    """A rounded box with a heading and small lines under it."""
    parts = [f'<rect class="box {kind}" x="{x}" y="{y}" width="{width}" height="{height}"/>']
    for i, line in enumerate(lines):
        style = "head" if i == 0 else "small"
        parts.append(f'<text class="{style}" x="{x + 12}" y="{y + 22 + 17 * i}">{line}</text>')
    return "".join(parts)


def arrow(path: str) -> str:
    """A line with a tip at its end."""
    return f'<path class="arrow" d="{path}"/>'


def row(parts: list[str]) -> str:
    """Boxes side by side, with a sign in each gap."""
    boxes = [part.split("; ") for part in parts[::2]]
    width, height = (WIDTH + 24) // len(boxes) - 40, 22 + 17 * max(map(len, boxes))
    drawn = [box(8 + i * (width + 40), 8, width, height, b) for i, b in enumerate(boxes)]
    for i, sign in enumerate(parts[1::2]):
        x, y = 8 + (i + 1) * (width + 40) - 20, 15 + height // 2
        drawn.append(f'<text class="sign" x="{x}" y="{y}">{sign}</text>')
    return picture("".join(drawn), height + 16, " ".join(parts).replace(";", ","))


def picture(parts: str, height: int, title: str) -> str:
    """A file of its own."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">'
        f"<title>{title}</title><style>{STYLE}</style>{parts}</svg>\n"
    )


def draw() -> str:
    """One step."""
    parts = [
        box(8, 58, 132, 92, ["policy θ", "adapter weights", "direction v", "radius μ"]),
        box(
            178,
            16,
            178,
            76,
            ["θ + μv answers", "a batch of 8 prompts", "8 such pairs a step"],
            "plus",
        ),
        box(
            178,
            116,
            178,
            76,
            ["θ − μv answers", "the same prompts", "the same random numbers"],
            "minus",
        ),
        box(
            394,
            58,
            158,
            92,
            ["which is better?", "people, rules, models", "A, B or tie", "sides drawn anew"],
        ),
        box(
            590,
            58,
            162,
            92,
            ["votes say where", "a posterior over the", "gradient; a step of", "known KL length"],
        ),
        arrow("M140 92 L158 92 L158 54 L174 54"),
        arrow("M140 116 L158 116 L158 154 L174 154"),
        arrow("M356 54 L374 54 L374 92 L390 92"),
        arrow("M356 154 L374 154 L374 116 L390 116"),
        arrow("M552 104 L586 104"),
        arrow("M671 150 L671 218 L74 218 L74 154"),
        '<text class="small" x="372" y="211" text-anchor="middle">θ moves; every answer, vote and '
        "update stands in one append-only file</text>",
    ]
    tip = (
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path class="tip" d="M0 0 L8 4 L0 8 z"/></marker></defs>'
    )
    title = "One step: two nudged policies answer the same prompts, votes say where to go"
    return picture(tip + "".join(parts), HEIGHT, title)


if __name__ == "__main__":
    docs = Path(__file__).parents[1]
    (docs / "step.svg").write_text(draw(), encoding="utf-8")
    for name, parts in ROWS.items():
        file = docs / "figures" / f"tutorial-{name}.svg"
        file.write_text(row(parts.split("|")), encoding="utf-8")
