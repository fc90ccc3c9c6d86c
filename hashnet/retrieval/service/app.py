"""The application: HTTP in, the engine's answers as JSON out."""

import asyncio
import contextlib
import importlib.resources
import logging
import os
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.types import ASGIApp

from hashnet.retrieval.service import schemas
from hashnet.retrieval.service.answers import Json, refuse_errors
from hashnet.retrieval.service.counters import CONTENT_TYPE, Counted
from hashnet.retrieval.service.heads import HeadAsGet
from hashnet.retrieval.service.image_routes import (
    add_change_routes,
    add_list_routes,
    add_picture_routes,
)
from hashnet.retrieval.service.limits import Limits
from hashnet.retrieval.service.parameters import refuse_unknown
from hashnet.retrieval.service.search_routes import add_match_routes, add_search_routes
from hashnet.retrieval.service.served_index import ServedIndex
from hashnet.retrieval.service.settings import (
    MAX_IDS,
    MAX_LABELS,
    MAX_MARKED,
    MAX_TEXT,
    Settings,
)
from hashnet.retrieval.service.state import Service
from hashnet.version import __version__

_log = logging.getLogger(__name__)

STATIC = importlib.resources.files("hashnet.retrieval.service") / "static"


class _Any(StringConvertor):
    """Any text in a path, newlines and slashes included: ids may hold them."""

    regex = "(?s:.*)"

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("any", _Any())


def create_app(place: str | os.PathLike[str], settings: Settings | None = None) -> ASGIApp:
    """The service of one index, as an ASGI application.

    Args:
        place: str or path-like, the folder of the index, or the URL of its table.
        settings: a `Settings`, or None for the defaults.

    Returns:
        An ASGI application.

    Raises:
        StoreError, FingerprintError, BundleError: the index cannot be served; a `BackendError`
            where its database does not answer.
    """
    settings = settings or Settings()
    service = Service.of(place, settings)
    api = FastAPI(
        title="HashNet",
        version=__version__,
        summary="Search photos by example.",
        docs_url=None,  # their scripts would come from elsewhere
        redoc_url=None,
        lifespan=_lifespan(service),
        dependencies=[Depends(refuse_unknown)],
        default_response_class=Json,
        form_limits={
            "max_files": 1,
            "max_fields": 2 * MAX_MARKED + MAX_LABELS + MAX_IDS + 10,
            "max_part_size": 4 * MAX_TEXT,
        },
    )
    refuse_errors(api)
    _add_page(api, service)
    for add in (
        add_list_routes,
        add_search_routes,
        add_picture_routes,
        add_match_routes,
        add_change_routes,
    ):
        add(api, service)
    api.openapi()  # made once, and not by the first requests, which come on several threads
    limited = Limits(
        Counted(api, service.counters),
        hosts=settings.hosts,
        body_bytes=settings.body_bytes,
        bodies_bytes=settings.bodies_bytes,
        body_seconds=settings.body_seconds,
    )
    return HeadAsGet(limited)


def _add_page(api: FastAPI, service: Service) -> None:
    """Add the page, and what those ask who watch over the service."""
    api.mount("/static", StaticFiles(directory=str(STATIC), check_dir=False), name="static")

    @api.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(str(STATIC / "index.html"))

    @api.get("/healthz", summary="Is the service up?", response_model=schemas.Health)
    async def health() -> Json:
        return Json({"status": "ok", "items": service.served.current.engine.snapshot.num_items})

    @api.get(
        "/metrics",
        summary="Counters, as Prometheus reads them",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    def metrics_text() -> Response:
        return Response(service.counters.text(), media_type=CONTENT_TYPE)


def _lifespan(service: Service) -> Any:
    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        seconds = service.settings.refresh_seconds
        refreshing = asyncio.create_task(_refresh(service.served, seconds))
        starting = asyncio.create_task(asyncio.to_thread(service.decoders.start))
        yield
        refreshing.cancel()
        await starting
        with contextlib.suppress(asyncio.CancelledError):
            await refreshing
        await asyncio.to_thread(service.close)

    return lifespan


async def _refresh(served: ServedIndex, seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        if await asyncio.to_thread(served.refresh):
            _log.info("serving a newer version of the index")
