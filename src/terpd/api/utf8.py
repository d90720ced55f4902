"""Bytes as text: a stream cut where no UTF-8 character is, since clients decode each piece by itself."""

from __future__ import annotations

import codecs


class Utf8Cutter:
    """Holds back the beginning of a character, 3 bytes at most, until its rest or the end of the stream comes."""

    def __init__(self) -> None:
        self._held = b""

    @property
    def held_bytes(self) -> int:
        """How many bytes have been fed and not yet returned."""
        return len(self._held)

    def feed(self, data: bytes) -> bytes:
        """Return what is complete. Bytes that can never become a character pass unchanged."""
        data = self._held + data
        end = len(data) - _open_tail(data)
        self._held = data[end:]
        return data[:end]

    def flush(self) -> bytes:
        held, self._held = self._held, b""
        return held


def decode_kept(data: bytes, *, cut: bool) -> str:
    """Decode with replacement characters; *cut* data may end within a character, which is then left out."""
    if cut:
        data = data[: len(data) - _open_tail(data)]
    return data.decode("utf-8", "replace")


def decode_counted(data: bytes, *, more: bool) -> tuple[str, int]:
    """
    Decode so that the text has as many bytes of UTF-8 as it was made of, and return it with that count.

    Each byte that is no UTF-8 becomes one `?`. With *more*, a character that is not complete at the end is left out.
    """
    end = len(data) - (_open_tail(data) if more else 0)
    return data[:end].decode("utf-8", "terp.question_marks"), end


def _question_marks(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "?" * (error.end - error.start), error.end


codecs.register_error("terp.question_marks", _question_marks)


def _open_tail(data: bytes) -> int:
    """How many bytes at the end begin a character that is not complete: 0 to 3."""
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 == 0x80:  # a continuation: its head is further ahead
            continue
        needed = 4 if 0xF0 <= byte <= 0xF4 else 3 if 0xE0 <= byte < 0xF0 else 2 if 0xC2 <= byte < 0xE0 else 1
        return back if needed > back else 0
    return 0
