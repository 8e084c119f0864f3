"""``python -m szpo``: the command line."""

from __future__ import annotations

from szpo.cli import main

if __name__ == "__main__":
    main()
