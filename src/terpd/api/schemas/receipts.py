"""Receipts of deletion on the wire."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field

from terpd.api.respond import timestamp
from terpd.api.schemas.shape import AnswerBody
from terpd.model.snapshot import Receipt


class ReceiptBody(AnswerBody):
    """That a data key was destroyed: from then on no copy of what it had encrypted can be read."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "subject": "sbx_01JG0000000000000000000000",
                    "what": "memory and disk",
                    "at": "2026-01-01T00:10:00.000000Z",
                    "key_id": "dk_01JG0000000000000000000000",
                    "server_key_id": "sk_1",
                }
            ]
        }
    )

    subject: str = Field(description="Id of the sandbox or snapshot")
    what: str = Field(description="What only that key could open")
    at: str
    key_id: str
    server_key_id: str = Field(description="Of the server's key that the destroyed one was wrapped with")


class ReceiptsBody(AnswerBody):
    receipts: list[ReceiptBody]


def receipt_object(receipt: Receipt) -> dict[str, Any]:
    return {
        "subject": receipt.subject,
        "what": receipt.what,
        "at": timestamp(receipt.at),
        "key_id": receipt.key_id,
        "server_key_id": receipt.server_key_id,
    }
