"""Receipts of what was deleted for good."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from terpd.api.given import GivenServices, Reader
from terpd.api.respond import json_response
from terpd.api.schemas.errors import errors
from terpd.api.schemas.receipts import ReceiptsBody, receipt_object

router = APIRouter(prefix="/v1", tags=["receipts"])


@router.get(
    "/deletion-receipts",
    operation_id="list_deletion_receipts",
    summary="Which data keys were destroyed and when, newest first",
    response_model=ReceiptsBody,
    responses=errors(422, 503),
)
async def list_all(
    caller: Reader,
    services: GivenServices,
    subject: Annotated[
        str | None, Query(max_length=64, description="Id of a sandbox or snapshot: only its own")
    ] = None,
    limit: Annotated[int, Query(ge=1, description="Above 200 counts as 200")] = 50,
) -> Response:
    """
    Each sandbox and each snapshot has a key of its own. Terminating the one or deleting the other destroys it, and with
    it every copy of memory and disk, wherever it may lie.
    """
    receipts = await services.receipts.list(caller.tenant, subject, min(limit, 200))
    return json_response({"receipts": [receipt_object(receipt) for receipt in receipts]})
