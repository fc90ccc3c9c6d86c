"""What is sent back: JSON, and refusals with their status; no traces of the inside."""

import json
import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from hashnet.errors import (
    ArgumentError,
    BackendError,
    HashnetError,
    ImageError,
    LockedError,
    RegionError,
    ShapeError,
    StoreError,
    UnknownIdError,
    UnknownNameError,
)
from hashnet.images.apart import CrowdedError
from hashnet.retrieval.service.limits import RETRY_AFTER
from hashnet.retrieval.service.work_queue import BusyError

_log = logging.getLogger(__name__)

MAX_MESSAGE = 2000  # characters: names of the index or of the request may be long

Responses = dict[int | str, dict[str, Any]]


class Problem(BaseModel):
    """What every refusal answers.

    Attributes:
        error: str, the message.
    """

    error: str


class Json(JSONResponse):
    """JSON in ASCII: ids and labels may hold what is no UTF-8."""

    def render(self, content: Any) -> bytes:
        """Write an answer; NaN, which is no JSON, raises ValueError.

        Args:
            content: what JSON can hold.

        Returns:
            bytes, ASCII.
        """
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


# What can be refused, for the OpenAPI document: any question, one with a picture, a change.
REFUSALS: Responses = {
    status: {"model": Problem, "description": text}
    for status, text in {
        400: "The request is malformed.",
        404: "There is nothing of this name.",
        408: "The request came in too slowly.",
        409: "The index keeps no local features, which this needs.",
        413: "The request is too large.",
        422: "A parameter is out of its range.",
        503: "The service is busy; see Retry-After.",
    }.items()
}
UPLOAD_REFUSALS: Responses = {
    **REFUSALS,
    415: {"model": Problem, "description": "The upload is no picture."},
}
CHANGE_REFUSALS: Responses = {
    **UPLOAD_REFUSALS,
    401: {"model": Problem, "description": "Changes need the token of the service."},
    403: {"model": Problem, "description": "The service allows no changes."},
}

# The first that fits.
_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (UnknownIdError, 404),
    (UnknownNameError, 404),
    (RegionError, 422),
    (CrowdedError, 503),
    (ImageError, 415),
    (ArgumentError, 422),
    (ShapeError, 422),
    (LockedError, 503),
    (StoreError, 503),
    (HashnetError, 400),
)
# What is said of an index that cannot be used now; the first that fits.
_UNREADABLE: tuple[tuple[type[Exception], str], ...] = (
    (LockedError, "The index is being written; try again."),
    (BackendError, "The database of the index does not answer; try again."),
    (StoreError, "The index cannot be read or written now; the log says why."),
)


def refuse_errors(api: FastAPI) -> None:
    """Have an application answer each error with a `Problem`.

    Args:
        api: the application.
    """

    @api.exception_handler(HashnetError)
    async def refused(_request: Request, error: HashnetError) -> Json:
        status = next(status for kind, status in _STATUS if isinstance(error, kind))
        message = str(error)
        if isinstance(error, StoreError):  # its message says where the index lies
            _log.error("%s", error)
            message = next(text for kind, text in _UNREADABLE if isinstance(error, kind))
        return _problem(status, message)

    @api.exception_handler(BusyError)
    async def busy(_request: Request, error: BusyError) -> Json:
        return _problem(503, str(error))

    @api.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> Json:
        # What was sent is not repeated: it may be a whole picture.
        places = [(".".join(map(str, one["loc"][1:])), _said(one)) for one in error.errors()]
        malformed = any(one["loc"][:2] == ("body", "image") for one in error.errors())
        text = "; ".join(f"{place}: {message}" for place, message in places)
        return _problem(400 if malformed else 422, text[:1000])

    @api.exception_handler(HTTPException)
    async def http(_request: Request, error: HTTPException) -> Json:
        return _problem(error.status_code, str(error.detail), error.headers)

    @api.exception_handler(Exception)
    async def crashed(_request: Request, _error: Exception) -> Json:
        return _problem(500, "Something went wrong inside; the log says what.")


def _said(error: Mapping[str, Any]) -> str:
    """What is wrong with one field of a request."""
    if error["loc"][:2] == ("body", "image") and isinstance(error.get("input"), str):
        return "A picture is sent as a file, and this is text; with curl: -F image=@cat.jpg."
    return str(error["msg"])


def _problem(status: int, message: str, headers: Mapping[str, str] | None = None) -> Json:
    headers = dict(headers or {})
    if status == 503:
        headers.setdefault("Retry-After", RETRY_AFTER)
    if len(message) > MAX_MESSAGE:
        message = f"{message[:MAX_MESSAGE]} …"
    return Json({"error": message}, status, headers)
