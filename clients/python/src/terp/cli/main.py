"""Entry of `terp`: failures become one line and an exit code."""

from __future__ import annotations

import os
import sys

FAILED = 1
BROKEN_PIPE = 141  # 128 + SIGPIPE, as a shell reports it


def main() -> None:
    """
    Run the command line and exit.

    Exit codes: 0; the command's own for `run` and `exec`; 1 for a failure; 2 for wrong usage.
    """
    try:
        from terp.cli.app import run  # noqa: PLC0415 - the extra may not be installed
    except ModuleNotFoundError as error:
        if error.name not in {"typer", "rich"}:
            raise
        print("terp: the command line needs an extra, install it with: pip install 'terp[cli]'", file=sys.stderr)  # noqa: T201
        sys.exit(FAILED)
    try:
        run()
    except BrokenPipeError:
        # Whoever read our output has gone; without this the interpreter complains once more while it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(BROKEN_PIPE)


if __name__ == "__main__":
    main()
