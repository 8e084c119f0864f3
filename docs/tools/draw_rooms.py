"""Draw docs/rooms.svg, the packages and who imports whom: python docs/tools/draw_rooms.py."""

import ast
from graphlib import TopologicalSorter
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).parents[2]
TREES = {"szpo_simulators": "simulators/szpo_simulators", "szpo": "szpo", "szpo_ui": "ui/szpo_ui"}
"""In the order in which their columns stand."""
WIDTH, HEIGHT, GAP, FLOOR, AISLE = 100, 24, 10, 54, 24
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#24292f;text-anchor:middle}"
    "rect{fill:#f6f8fa;stroke:#8c959f}.szpo_ui{stroke:#2563a8}.szpo_simulators{stroke:#c2571a}"
    "path{stroke:#6e7781;fill:none;opacity:.5}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}rect{fill:#161b22}path{stroke:#9aa4ae}}"
)


def room_of(module: str) -> str:
    """The package of a module: its first two names; single modules of a tree are one room."""
    tree, *rest = module.split(".")
    inside = rest and any((ROOT / TREES[tree] / rest[0]).glob("*.py"))
    return f"{tree}.{rest[0]}" if inside else tree


def imported(path: Path) -> set[str]:
    """The rooms of the three trees that a file imports, wherever in it."""
    names = chain.from_iterable(
        [f"{node.module}.{alias.name}" for alias in node.names]
        if isinstance(node, ast.ImportFrom)
        else [alias.name for alias in node.names]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
    )
    return {room_of(name) for name in names if name.split(".")[0] in TREES}


def read_rooms() -> dict[str, set[str]]:
    """The rooms that each room imports."""
    uses: dict[str, set[str]] = {}
    for tree, folder in TREES.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            room = room_of(".".join((tree, *path.relative_to(ROOT / folder).parts)))
            uses.setdefault(room, set()).update(
                imported(path) - {room, "szpo_ui", "szpo_simulators"}
            )
    # Single modules: those of szpo are the ground, those of the others the way in. What `import
    # szpo` offers is loaded on demand, so its arrows to the library are no layer.
    uses["szpo"] = set()
    return uses


def reachable(room: str, uses: dict[str, set[str]]) -> set[str]:
    """Every room below a room, however many floors."""
    return uses[room].union(*(reachable(each, uses) for each in uses[room]))


def draw() -> str:
    """The whole picture: each room on the lowest floor above all that it imports."""
    uses = read_rooms()
    floor: dict[str, int] = {}
    for room in TopologicalSorter(uses).static_order():
        floor[room] = 1 + max((floor[each] for each in uses[room]), default=-1)
    top, left = max(floor.values()), AISLE
    at: dict[str, tuple[float, float]] = {}
    for tree in TREES:
        rows = [
            sorted(r for r in uses if r.split(".")[0] == tree and floor[r] == level)
            for level in range(top + 1)
        ]
        column = max(map(len, rows)) * (WIDTH + GAP) - GAP
        for level, row in enumerate(rows):
            # Over what it stands on, so that lines are short.
            row.sort(key=lambda room: sorted(at[e][0] for e in uses[room] if e in at)[-1:])
            first = left + (column - len(row) * (WIDTH + GAP) + GAP) / 2
            for place, room in enumerate(row):
                at[room] = (first + place * (WIDTH + GAP), AISLE + (top - level) * FLOOR)
        left += column + AISLE
    parts = []
    for room, below in uses.items():
        for each in sorted(below.difference(*(reachable(other, uses) for other in below))):
            x, y, to, end = at[room][0], at[room][1] + HEIGHT, *at[each]
            x, to, bend = x + WIDTH / 2, to + WIDTH / 2, 0.45 * (end - y)
            curve = f"M{x:g} {y:g}C{x:g} {y + bend:.0f} {to:g} {end - bend:.0f} {to:g} {end:g}"
            parts.append(f'<path d="{curve}"/>')
    for room, (x, y) in at.items():
        tree, _, name = room.partition(".")
        label = f"{tree.removeprefix('szpo_')}/*.py"
        box = f'x="{x:g}" y="{y:g}" rx="5" width="{WIDTH}" height="{HEIGHT}"'
        parts.append(f'<rect class="{tree}" {box}/>')
        parts.append(f'<text x="{x + WIDTH / 2:g}" y="{y + 16:g}">{name or label}</text>')
    view = f'viewBox="0 0 {left:g} {2 * AISLE + top * FLOOR + HEIGHT}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {view}><style>{STYLE}</style>'
    return f"{head}{''.join(parts)}</svg>\n"


if __name__ == "__main__":
    (ROOT / "docs" / "rooms.svg").write_text(draw(), encoding="utf-8")
