"""`python -m terpd.egress.gateway FD [UID]`: the process, started by terpd with its end of the control socket."""

from __future__ import annotations

import encodings.idna  # noqa: F401  otherwise imported when the first name is looked up
import json
import sys

import structlog

from terpd.egress.gateway.server import run


def main() -> None:
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=json.dumps),
        ],
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )
    control, *uid = (int(argument) for argument in sys.argv[1:])
    run(control, uid[0] if uid else None)


main()
