"""From errors to HTTP: the only table of codes and statuses, and the one shape of an error's body."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.responses import Response

from terpd.model import errors

STATUS: Mapping[type[errors.TerpError], int] = {
    errors.InvalidRequest: 422,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.LogDropped: 410,
    errors.Conflict: 409,
    errors.LimitExceeded: 429,
    errors.PlanLimit: 403,
    errors.SnapshotCap: 409,
    errors.TooLarge: 413,
    errors.CapacityUnavailable: 503,
    errors.Unavailable: 503,
    errors.StorageFull: 507,
    errors.SavedStateFault: 409,
    errors.DeadlineExceeded: 504,
    errors.ExecKilled: 422,
    errors.GuestFault: 502,
    errors.Internal: 500,
    errors.TerpError: 500,
}

_SHOWN_PROBLEMS = 8


def status_of(error: errors.TerpError) -> int:
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def error_body(error: errors.TerpError) -> dict[str, Any]:
    """`detail` and `code` are always there and always strings; the error's own fields come beside them."""
    return {**error.fields, "detail": error.detail, "code": error.code}


def error_response(error: errors.TerpError) -> Response:
    headers = {}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(math.ceil(error.retry_after_s))
    if isinstance(error, errors.Unauthenticated):
        headers["www-authenticate"] = "Bearer"
    return _response(status_of(error), error_body(error), headers)


def internal_response(request_id: str) -> Response:
    detail = f"The server has failed at this request; its log says more under the request id: {request_id}"
    return _response(500, error_body(errors.Internal(detail)), {})


def install(app: FastAPI) -> None:
    app.add_exception_handler(errors.TerpError, _on_terp_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)


def _response(status: int, body: Mapping[str, Any], headers: Mapping[str, str]) -> Response:
    return Response(to_json(body), status, headers, media_type="application/json")


async def _on_terp_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.TerpError)
    request.scope["terp.error"] = error  # for the access log, with the context that the caller does not see
    return error_response(error)


async def _on_validation_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = [_problem(item) for item in error.errors()[:_SHOWN_PROBLEMS]]
    detail = "; ".join(f"{p['field']}: {p['problem']}" for p in problems)
    return error_response(errors.InvalidRequest(detail, fields={"problems": problems}))


def _problem(item: Mapping[str, Any]) -> dict[str, str]:
    """Name the field and what is wrong. Never the value: it may be a secret."""
    place: Sequence[str | int] = item["loc"]
    field = ".".join(str(part)[:64] for part in place[1:]) or str(place[0])
    if item["type"] == "extra_forbidden":
        return {"field": field, "problem": "there is no such field here"}
    if item["type"] == "json_invalid":
        return {"field": "body", "problem": "not valid JSON"}
    if item["type"] == "model_attributes_type" and field == "body":
        return {"field": field, "problem": "must be a JSON object, sent with Content-Type: application/json"}
    return {"field": field, "problem": str(item["msg"])}


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """What the framework itself refuses: unknown paths, wrong methods, unreadable bodies."""
    assert isinstance(error, HTTPException)
    call = f"{request.method} {request.url.path[:200]}"
    known = {
        404: ("not_offered", f"This server does not offer this call: {call}"),
        405: ("method_not_allowed", f"This path has other methods than this one: {call}"),
    }
    code, detail = known.get(error.status_code, ("invalid_request", str(error.detail)))
    return _response(error.status_code, {"detail": detail, "code": code}, dict(error.headers or {}))
