"""The command line: ``commands.py`` lists what there is, ``running.py`` turns outcomes into exit codes."""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """The entry point ``bigmarket``; ends the process with the exit code."""
    try:
        from bigmarket.cli.running import run  # noqa: PLC0415  an interrupt while this loads must end quietly too

        sys.exit(run(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        sys.exit(130)
