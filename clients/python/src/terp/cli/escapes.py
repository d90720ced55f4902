"""The way out of a shell: what is typed, less the keys that are meant for `terp` itself."""

from __future__ import annotations

CTRL_BRACKET = 0x1D
TILDE = ord("~")
DOT = ord(".")
LINE_ENDS = b"\r\n"


class Escapes:
    """
    Ctrl-] twice detaches, and so does `~.` at the start of a line; `~~` there is one `~`.

    The first of two keys waits for the second: only then is it clear whom it is for.
    """

    def __init__(self) -> None:
        self._held: int | None = None
        self._line_start = True

    def feed(self, typed: bytes) -> tuple[bytes, bool]:
        """Return what goes to the sandbox, and whether to detach behind that."""
        passed = bytearray()
        for key in typed:
            held, self._held = self._held, None
            if (held, key) in ((CTRL_BRACKET, CTRL_BRACKET), (TILDE, DOT)):
                return bytes(passed), True
            if held == TILDE and key == TILDE:
                passed.append(TILDE)
                self._line_start = False
                continue
            if held is not None:
                passed.append(held)
                self._line_start = False
            if key == CTRL_BRACKET or (key == TILDE and self._line_start):
                self._held = key
                continue
            passed.append(key)
            self._line_start = key in LINE_ENDS
        return bytes(passed), False
