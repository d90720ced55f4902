"""Entry of `terp`: failures become one line and an exit code."""

from __future__ import annotations

import sys

FAILED = 1


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
    run()


if __name__ == "__main__":
    main()
