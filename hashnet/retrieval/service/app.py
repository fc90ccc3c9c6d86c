"""The routes: HTTP in, the engine's answers as JSON out."""

import asyncio
import contextlib
import dataclasses
import hmac
import importlib.resources
import json
import logging
import os
import time
from typing import Annotated

import fastapi
import prometheus_client
from fastapi import Depends, FastAPI, File, Form, Path, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.exceptions import HTTPException

from hashnet import images
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
from hashnet.retrieval.search.query import Query
from hashnet.retrieval.service.current import Live
from hashnet.retrieval.service.limits import RETRY_AFTER, Limits
from hashnet.retrieval.service.thumbnails import Pictures
from hashnet.retrieval.service.work_queue import BusyError, Desk
from hashnet.version import __version__

_log = logging.getLogger(__name__)

STATIC = importlib.resources.files("hashnet.retrieval.service") / "static"
MAX_K = 10_000
MAX_MARKED = 200  # images marked right, and as many wrong
MAX_LABELS = 100
MAX_IDS = 1000  # that a search is narrowed to
MAX_TEXT = 4096  # characters of an id or label
THUMBNAIL, PICTURE = 256, 1600
MAX_SIDE = 2048


class _Any(StringConvertor):
    """Any text in a path, newlines and slashes included: ids may hold them."""

    regex = "(?s:.*)"

    def to_string(self, value):
        return value


register_url_convertor("any", _Any())


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a service behaves.

    Attributes:
        token: str or None. What a client must show to change the index; None: nobody may.
        show_paths: bool. Whether answers say where files lie.
        hosts: tuple of str. As for `Limits`.
        workers: int. Threads that encode and search.
        places: int. Searches at once, those that wait included.
        seconds: float. For one search, its wait included.
        body_bytes, bodies_bytes, body_seconds: as for `Limits`.
        thumbnail_bytes: int. Of all thumbnails that are remembered.
        refresh_seconds: float. How often the index on disk is looked at for changes.
    """

    token: str | None = None
    show_paths: bool = False
    hosts: tuple = ()
    workers: int = 2
    places: int = 128
    seconds: float = 30.0
    body_bytes: int = 32 * 2**20
    bodies_bytes: int = 256 * 2**20
    body_seconds: float = 30.0
    thumbnail_bytes: int = 64 * 2**20
    refresh_seconds: float = 2.0


class Problem(BaseModel):
    """What every refusal answers.

    Attributes:
        error: str, the message.
    """

    error: str


class Json(Response):
    """JSON in ASCII: ids and labels may hold what is no UTF-8."""

    media_type = "application/json"

    def render(self, content) -> bytes:
        """Write an answer; NaN, which is no JSON, raises ValueError.

        Args:
            content: what JSON can hold.

        Returns:
            bytes, ASCII.
        """
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


# What can be refused, for the OpenAPI document.
_SOME = {
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
_UPLOAD = {**_SOME, 415: {"model": Problem, "description": "The upload is no picture."}}
_CHANGE = {
    **_UPLOAD,
    401: {"model": Problem, "description": "Changes need the token of the service."},
    403: {"model": Problem, "description": "The service allows no changes."},
}

_REGION = r"^[0-9]{1,6}(,[0-9]{1,6}){3}$"
_Text = Annotated[str, fastapi.Query(min_length=1, max_length=MAX_TEXT)]
_PostedText = Annotated[str, Form(min_length=1, max_length=MAX_TEXT)]


def _region(kind):
    """The part of the query that is meant, from the query string or from a form."""
    text = "Y0,X0,Y1,X1 in pixels of the upright query: only this part of it."
    return Annotated[str | None, kind(pattern=_REGION, description=text)]


def _box(region):
    return region and tuple(map(int, region.split(",")))


def _parameters(kind):
    """The parameters that every search takes, from the query string or from a form.

    They are the fields of `Query`, whose defaults they have.
    """

    def several(most, text):
        item = Annotated[str, kind(max_length=MAX_TEXT)]
        return Annotated[list[item], kind(max_length=most, description=text)]

    def parameters(
        k: Annotated[int, kind(ge=1, le=MAX_K, description="Hits wanted.")] = Query.k,
        threshold: Annotated[
            int | None,
            kind(ge=1, le=1025, description="The pool has fewer than so many bits apart."),
        ] = Query.threshold,
        pool: Annotated[
            int | None,
            kind(ge=1, le=2**31, description="Instead of a threshold: least size of the pool."),
        ] = Query.pool,
        label: several(MAX_LABELS, "Only images with one of these labels.") = [],  # noqa: B006
        ids: several(MAX_IDS, "Only images of these ids.") = [],  # noqa: B006
        region: _region(kind) = None,
        verify: Annotated[
            bool, kind(description="Also count matches of local features.")
        ] = Query.verify,
        right: several(MAX_MARKED, "Ids of hits that are right.") = [],  # noqa: B006
        wrong: several(MAX_MARKED, "Ids of hits that are wrong.") = [],  # noqa: B006
    ) -> dict:
        return {
            "k": k,
            "threshold": threshold,
            "pool": pool,
            "label": label,
            "ids": ids,
            "region": region,
            "verify": verify,
            "right": right,
            "wrong": wrong,
        }

    return parameters


async def _posted(
    request: Request,
    in_address: Annotated[dict, Depends(_parameters(fastapi.Query))],
    in_form: Annotated[dict, Depends(_parameters(Form))],
) -> dict:
    """The parameters of a search that posts a picture, each from the form or the query string."""
    form = await request.form()
    twice = [name for name in in_form if name in form and name in request.query_params]
    if twice:
        raise ArgumentError(
            "A parameter is given in the form or in the query string.",
            f"{', '.join(twice)} in both",
        )
    return {
        name: in_address[name] if name in request.query_params else value
        for name, value in in_form.items()
    }


def _refuse_unknown(request: Request) -> None:
    """Name the parameters in the query string that a question does not take."""
    path, method = request.scope["route"].path_format, request.method.lower()
    described = request.app.openapi()["paths"].get(path, {}).get(method, {})
    if "422" not in described.get("responses", {}):  # the page keeps its state there
        return
    parameters = described.get("parameters", [])
    known = {one["name"] for one in parameters if one["in"] == "query"}
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        taken = ", ".join(sorted(known)) or "none"
        raise ArgumentError(
            "A question has no parameters in its address but its own.",
            ", ".join(dict.fromkeys(unknown))[:1000],
            f"They are: {taken}.",
        )


_Asked = Annotated[dict, Depends(_parameters(fastapi.Query))]
_Posted = Annotated[dict, Depends(_posted)]
_Id = Annotated[str, Path(max_length=MAX_TEXT, description="As answers show it, URL-encoded.")]
_Image = Annotated[UploadFile, File(description="A picture; JPEG, PNG, WebP, BMP, GIF or TIFF.")]


class _Metrics:
    def __init__(self, live, desks):
        self.registry = prometheus_client.CollectorRegistry()
        own = {"registry": self.registry}
        self.requests = prometheus_client.Counter(
            "hashnet_requests", "Answers given", ["endpoint", "status"], **own
        )
        self.seconds = prometheus_client.Histogram(
            "hashnet_request_seconds", "From request to answer", ["endpoint"], **own
        )
        self.stages = prometheus_client.Histogram(
            "hashnet_stage_seconds",
            "Stages of searches",
            ["stage"],
            buckets=(0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5),
            **own,
        )
        images = prometheus_client.Gauge("hashnet_images", "Images in the index", **own)
        images.set_function(lambda: live.view.engine.snapshot.num_items)
        taken = prometheus_client.Gauge("hashnet_desk", "Work waiting or done", ["desk"], **own)
        for name, desk in desks.items():
            taken.labels(name).set_function(lambda desk=desk: desk.taken)

    def count(self, endpoint, status, seconds):
        self.requests.labels(endpoint, str(status)).inc()
        self.seconds.labels(endpoint).observe(seconds)

    def count_stages(self, milliseconds):
        for stage, time_taken in milliseconds.items():
            if time_taken is not None:
                self.stages.labels(stage).observe(time_taken / 1000)


class _Counted:
    """Counts requests; endpoints by the names of their functions, so that they stay few."""

    def __init__(self, app, metrics):
        self._app, self._metrics = app, metrics

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        start, status = time.perf_counter(), 499  # the client went away

        async def watched(message):
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            endpoint = getattr(scope.get("endpoint"), "__name__", "none")
            self._metrics.count(endpoint, status, time.perf_counter() - start)


def create_app(place, settings: Settings | None = None):
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
    live = Live(place, show_paths=settings.show_paths)
    pictures = Pictures(settings.thumbnail_bytes)
    limits = {"workers": settings.workers, "places": settings.places, "seconds": settings.seconds}
    desks = {
        "search": Desk("search", **limits),
        # Thumbnails come by the dozen and must not keep a search waiting.
        "pictures": Desk("pictures", **{**limits, "places": 4 * settings.places}),
        "changes": Desk("changes", **{**limits, "workers": 1}),
    }
    metrics = _Metrics(live, desks)

    @contextlib.asynccontextmanager
    async def lifespan(_app):
        refreshing = asyncio.create_task(_refresh(live, settings.refresh_seconds))
        yield
        refreshing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await refreshing
        for desk in desks.values():
            await asyncio.to_thread(desk.close)

    api = FastAPI(
        title="HashNet",
        version=__version__,
        summary="Search photos by example.",
        docs_url=None,  # their scripts would come from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        dependencies=[Depends(_refuse_unknown)],
        default_response_class=Json,
        form_limits={
            "max_files": 1,
            "max_fields": 2 * MAX_MARKED + MAX_LABELS + MAX_IDS + 10,
            "max_part_size": 4 * MAX_TEXT,
        },
    )
    _answer_errors(api)
    api.mount("/static", StaticFiles(directory=str(STATIC), check_dir=False), name="static")

    @api.get("/", include_in_schema=False)
    def page():
        return FileResponse(str(STATIC / "index.html"))

    @api.get("/healthz", summary="Is the service up?")
    async def health() -> dict:
        return {"status": "ok", "items": live.view.engine.snapshot.num_items}

    @api.get("/metrics", summary="Counters, as Prometheus reads them", response_class=Response)
    def metrics_text():
        content = prometheus_client.generate_latest(metrics.registry)
        return Response(content, media_type=prometheus_client.CONTENT_TYPE_LATEST)

    @api.get("/api/info", summary="What can be searched for")
    async def info() -> dict:
        view = live.view
        return {
            "items": view.engine.snapshot.num_items,
            "bits": view.engine.index.encoder.config.num_bits,
            "labels": [{"name": name, "count": n} for name, n in sorted(view.words.labels.items())],
            "classes": list(view.words.classes),
            "local": view.engine.index.store.extractor,
            "writable": settings.token is not None,
        }

    async def answer(view, search, options):
        """Ids are looked up by the worker too: the index may be a database that is slow."""
        if options["verify"]:
            _need_local(view)

        def work():
            return search(_query(view, options))

        result = await desks["search"].do(work)
        metrics.count_stages(result.milliseconds)
        fields = result.to_dict()
        for hit in fields["hits"]:
            hit["id"] = view.names.shown(hit["id"])
            if not settings.show_paths:
                del hit["path"]
        return Json(fields)

    @api.post("/api/search", summary="Search by a picture", responses=_UPLOAD)
    async def search_by_image(image: _Image, options: _Posted) -> dict:
        view, content = live.view, await image.read()
        return await answer(view, lambda query: view.engine.search(content, query), options)

    @api.get(
        "/api/search", summary="Search by an image of the index, or by a word", responses=_SOME
    )
    async def search_by_name(
        options: _Asked,
        id: _Text | None = None,
        class_: Annotated[
            str | None,
            fastapi.Query(
                alias="class",
                max_length=MAX_TEXT,
                description="A label of the index or a class that the network knows.",
            ),
        ] = None,
    ) -> dict:
        if (id is None) == (class_ is None):
            raise ArgumentError("A search is by an id or by a class.", "both or neither")
        view = live.view
        if class_ is not None:
            return await answer(view, lambda query: _search_word(view, class_, query), options)
        search = _search_region if options["region"] else _search_id
        return await answer(view, lambda query: search(view, id, query), options)

    @api.get("/api/images", summary="List the images of the index", responses=_SOME)
    async def list_images(
        offset: Annotated[int, fastapi.Query(ge=0, le=2**40)] = 0,
        limit: Annotated[int, fastapi.Query(ge=1, le=1000)] = 100,
        label: Annotated[str | None, fastapi.Query(max_length=MAX_TEXT)] = None,
    ) -> dict:
        view = live.view
        total, items = await desks["pictures"].do(view.words.listed, label, offset, limit)
        return Json({"total": total, "images": [_described(view, one, settings) for one in items]})

    @api.get(
        "/api/images/{id:any}/thumbnail",
        summary="A small picture of an image",
        response_class=Response,
        responses={**_SOME, 200: {"content": {"image/jpeg": {}}}},
    )
    async def thumbnail(
        id: _Id, size: Annotated[int, fastapi.Query(ge=16, le=1024)] = THUMBNAIL
    ) -> Response:
        return await picture_of(id, size, remember=True)

    @api.get(
        "/api/images/{id:any}/picture",
        summary="A picture of an image",
        response_class=Response,
        responses={**_SOME, 200: {"content": {"image/jpeg": {}}}},
    )
    async def picture(
        id: _Id, size: Annotated[int, fastapi.Query(ge=16, le=MAX_SIDE)] = PICTURE
    ) -> Response:
        return await picture_of(id, size, remember=False)

    async def picture_of(id, size, remember):
        path = (await desks["pictures"].do(_item, live.view, id)).path
        if path is None:
            raise HTTPException(404, "Of this image no file is known.")
        try:
            content = await desks["pictures"].do(pictures.jpeg, path, size, remember=remember)
        except ImageError as error:
            raise HTTPException(404, str(error)) from error
        return Response(
            content, media_type="image/jpeg", headers={"cache-control": "private, max-age=60"}
        )

    @api.get(
        "/api/matches", summary="Which places of two images of the index match", responses=_SOME
    )
    async def matches(query: _Text, hit: _Text, region: _region(fastapi.Query) = None) -> dict:
        return await matched(query, hit, region)

    @api.post(
        "/api/matches",
        summary="Which places of a picture and of an image of the index match",
        responses=_UPLOAD,
    )
    async def matches_of_image(
        image: _Image, hit: _PostedText, region: _region(Form) = None
    ) -> dict:
        return await matched(await image.read(), hit, region)

    async def matched(query, hit, region):
        view = live.view
        _need_local(view)
        return await desks["search"].do(_matches, view, query, hit, _box(region))

    def may_change(request: Request):
        if settings.token is None:
            raise HTTPException(403, "This service allows no changes.")
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        given = token.strip().encode("utf-8", "replace")
        if kind.lower() != "bearer" or not hmac.compare_digest(given, settings.token.encode()):
            raise HTTPException(
                401, "Changes need the token of the service.", {"WWW-Authenticate": "Bearer"}
            )

    writer = [Depends(may_change)]

    @api.post(
        "/api/images", summary="Add or replace an image", responses=_CHANGE, dependencies=writer
    )
    async def add_image(
        image: _Image,
        id: _PostedText,
        label: Annotated[str | None, Form(max_length=MAX_TEXT)] = None,
    ) -> dict:
        id, content = live.view.names.id(id), await image.read()
        await desks["changes"].do(live.add, id, content, label or None)
        view = live.view
        item = await desks["pictures"].do(_item, view, view.names.shown(id))
        return Json(_described(view, item, settings))

    @api.delete(
        "/api/images/{id:any}", summary="Remove an image", responses=_CHANGE, dependencies=writer
    )
    async def remove_image(id: _Id) -> dict:
        if not await desks["changes"].do(live.remove, live.view.names.id(id)):
            raise UnknownIdError("Only what is in the index can be removed.", repr(id))
        return {"removed": id}

    @api.get("/api/images/{id:any}", summary="What is known of an image", responses=_SOME)
    async def image_info(id: _Id) -> dict:
        view = live.view
        item, (height, width) = await desks["pictures"].do(_measured, view, id)
        return Json({**_described(view, item, settings), "height": height, "width": width})

    inner = _Counted(api, metrics)
    return Limits(
        inner,
        hosts=settings.hosts,
        body_bytes=settings.body_bytes,
        bodies_bytes=settings.bodies_bytes,
        body_seconds=settings.body_seconds,
    )


async def _refresh(live, seconds):
    while True:
        await asyncio.sleep(seconds)
        if await asyncio.to_thread(live.refresh):
            _log.info("serving a newer version of the index")


# --- Questions to the engine, in a thread -----------------------------------------------------


def _query(view, options):
    """What the parameters of a request ask the engine for."""
    ids = [view.names.id(name) for name in options["ids"]]
    if ids and (view.engine.snapshot.rows(ids) < 0).all():
        raise UnknownIdError(
            "A search among ids needs one that the index holds.", ", ".join(options["ids"][:3])
        )
    return Query(
        k=options["k"],
        threshold=options["threshold"],
        pool=options["pool"],
        labels=options["label"] or None,
        ids=ids or None,
        region=_box(options["region"]),
        right=_ids(view, options["right"]),
        wrong=_ids(view, options["wrong"]),
        histogram=True,
        verify=options["verify"],
    )


def _search_id(view, name, query):
    result = view.engine.search_id(_item(view, name).id, query)
    return dataclasses.replace(result, query=name)


def _search_region(view, name, query):
    result = _of_file(view, name, lambda path: view.engine.search(path, query))
    return dataclasses.replace(result, query=name)


def _of_file(view, name, ask):
    """What is answered of the file of an image of the index, which may have gone or changed."""
    path = _item(view, name).path
    if path is None or not os.path.isfile(path):
        raise HTTPException(404, "Of this image no file is known, to cut a region from.")
    try:
        return ask(path)
    except RegionError:
        raise
    except ImageError as error:
        raise HTTPException(404, "The file of this image is no picture any more.") from error


def _search_word(view, name, query):
    code, feature = view.words.query(name)
    return view.engine.search_encoded(code, feature, query, name=name)


def _ids(view, names):
    """The ids that are shown so; what is unknown is named as it was given, without a folder."""
    ids = [view.names.id(name) for name in names]
    for name, row in zip(names, view.engine.snapshot.rows(ids) if ids else (), strict=True):
        if row < 0:
            raise UnknownIdError("The index holds no image of this id.", repr(name))
    return ids


def _measured(view, name):
    """An item, and (height, width) of the upright picture in its file; Nones if there is none.

    A picture that is shown may be smaller than the photo, in whose pixels matches and regions are.
    """
    item = _item(view, name)
    try:
        return item, images.size(item.path) if item.path else (None, None)
    except ImageError:
        return item, (None, None)


def _matches(view, query, hit, region):
    """Where a query, an id or the bytes of a picture, matches an image; in pixels of the two."""
    hit = _item(view, hit).id

    def of_part(source):
        return view.engine.match(source, hit, region=region)

    if isinstance(query, bytes):
        found = of_part(query)
    elif region:
        found = _of_file(view, query, of_part)
    else:
        found = view.engine.match_id(_item(view, query).id, hit)
    return {
        "inliers": found.inliers,
        "query": {"yx": found.query_yx.tolist()},
        "hit": {"yx": found.yx.tolist()},
    }


def _item(view, name):
    snapshot = view.engine.snapshot
    return snapshot.items(snapshot.rows(_ids(view, [name])))[0]


def _described(view, item, settings):
    fields = {"id": view.names.shown(item.id), "label": item.label, "bytes": item.size}
    return {**fields, "path": item.path} if settings.show_paths else fields


def _need_local(view):
    if view.engine.index.store.extractor is None:
        raise HTTPException(409, "This index has no local features; see `hashnet index --local`.")


# --- Refusals ---------------------------------------------------------------------------------

# The first that fits.
_STATUS = (
    (UnknownIdError, 404),
    (UnknownNameError, 404),
    (RegionError, 422),
    (ImageError, 415),
    ((ArgumentError, ShapeError), 422),
    (LockedError, 503),
    (StoreError, 503),
    (HashnetError, 400),
)
# What is said of an index that cannot be used now; the first that fits.
_UNREADABLE = (
    (LockedError, "The index is being written; try again."),
    (BackendError, "The database of the index does not answer; try again."),
    (StoreError, "The index cannot be read or written now; the log says why."),
)


def _answer_errors(api):
    @api.exception_handler(HashnetError)
    async def refused(_request, error):
        status = next(status for kind, status in _STATUS if isinstance(error, kind))
        message = str(error)
        if isinstance(error, StoreError):  # its message says where the index lies
            _log.error("%s", error)
            message = next(text for kind, text in _UNREADABLE if isinstance(error, kind))
        return _problem(status, message)

    @api.exception_handler(BusyError)
    async def busy(_request, error):
        return _problem(503, str(error))

    @api.exception_handler(RequestValidationError)
    async def invalid(_request, error):
        # What was sent is not repeated: it may be a whole picture.
        places = [(".".join(map(str, one["loc"][1:])), one["msg"]) for one in error.errors()]
        malformed = any(one["loc"][:2] == ("body", "image") for one in error.errors())
        text = "; ".join(f"{place}: {message}" for place, message in places)
        return _problem(400 if malformed else 422, text[:1000])

    @api.exception_handler(HTTPException)
    async def http(_request, error):
        return _problem(error.status_code, str(error.detail), error.headers)

    @api.exception_handler(Exception)
    async def crashed(_request, _error):
        return _problem(500, "Something went wrong inside; the log says what.")


def _problem(status, message, headers=None):
    headers = dict(headers or {})
    if status == 503:
        headers.setdefault("Retry-After", RETRY_AFTER)
    return Json({"error": message}, status, headers)
