"""``python -m bigmarket``: the command line."""

from __future__ import annotations

from bigmarket.cli import main

if __name__ == "__main__":
    main()
