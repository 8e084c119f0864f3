"""``python -m szpo``: the command line."""

from __future__ import annotations

from szpo.cli.app import main

if __name__ == "__main__":
    main()
