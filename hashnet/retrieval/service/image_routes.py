"""The routes of the images of the index: lists, pictures and changes."""

import hmac
from typing import Annotated, Any

import fastapi
from fastapi import Depends, FastAPI, Form, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from hashnet.errors import ArgumentError, ImageError, UnknownIdError
from hashnet.images.apart import resized
from hashnet.retrieval.service import questions, schemas
from hashnet.retrieval.service.answers import CHANGE_REFUSALS, REFUSALS, Json, Responses
from hashnet.retrieval.service.parameters import Id, Image, PostedText, Text
from hashnet.retrieval.service.served_index import Version
from hashnet.retrieval.service.settings import MAX_LISTED, MAX_SIDE, MAX_TEXT
from hashnet.retrieval.service.state import Service

THUMBNAIL, PICTURE = 256, 1600  # pixels of the longer side
_SEVERAL = fastapi.Query(max_length=100, description="Again for several.")
_NONE: list[str] = []
_PICTURE = {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}
_JPEG: Responses = {**REFUSALS, 200: {"content": _PICTURE}}
Offset = Annotated[int, fastapi.Query(ge=0, le=2**40)]
Limit = Annotated[int, fastapi.Query(ge=1, le=MAX_LISTED)]


def add_list_routes(api: FastAPI, service: Service) -> None:
    """Add the routes that say what the index holds.

    Args:
        api: the application.
        service: `Service`.
    """

    def labels_of(version: Version, offset: int, limit: int, find: str = "") -> dict[str, Any]:
        total, labels = version.prototypes.labels_listed(find, offset, limit)
        return {
            "total": total,
            "labels": [{"name": name, "count": count} for name, count in labels],
        }

    @api.get("/api/info", summary="What can be searched for", response_model=schemas.Info)
    async def info() -> Json:
        version = service.served.current
        labels = labels_of(version, 0, MAX_LISTED)
        classes = version.prototypes.classes
        fields = {
            "items": version.engine.snapshot.num_items,
            "bits": version.engine.index.encoder.config.num_bits,
            "num_labels": labels["total"],
            "labels": labels["labels"],
            "num_classes": len(classes),
            "classes": classes[:MAX_LISTED],
            "local": version.engine.index.store.extractor,
            "grades": version.engine.grades,
            "ocr": version.engine.index.store.ocr is not None,
            "exif": version.engine.index.store.exif,
            "folders": [root.name for root in version.engine.snapshot.roots.all or ()],
            "writable": service.settings.token is not None,
        }
        return Json(fields)

    @api.get(
        "/api/labels",
        summary="List the labels of the index",
        responses=REFUSALS,
        response_model=schemas.Labels,
    )
    async def list_labels(
        offset: Offset = 0,
        limit: Limit = 100,
        find: Annotated[
            str, fastapi.Query(max_length=MAX_TEXT, description="Only those that hold this.")
        ] = "",
    ) -> Json:
        version = service.served.current
        return Json(await service.queues["pictures"].run(labels_of, version, offset, limit, find))

    @api.get(
        "/api/images",
        summary="List the images of the index",
        responses=REFUSALS,
        response_model=schemas.Images,
    )
    async def list_images(
        offset: Offset = 0,
        limit: Limit = 100,
        label: Annotated[str | None, fastapi.Query(max_length=MAX_TEXT)] = None,
    ) -> Json:
        version = service.served.current
        total, items = await service.queues["pictures"].run(
            version.prototypes.listed, label, offset, limit
        )
        described = [service.described(version, one) for one in items]
        return Json({"total": total, "images": described})


def add_picture_routes(api: FastAPI, service: Service) -> None:
    """Add the routes of pictures.

    Args:
        api: the application.
        service: `Service`.
    """
    queue = service.queues["pictures"]

    async def picture_of(id: str, size: int, remember: bool) -> Response:
        path = (await queue.run(questions.item, service.served.current, id)).path
        if path is None:
            raise HTTPException(404, "No file of this image is known.")
        try:
            content = await queue.run(service.pictures.jpeg, path, size, remember=remember)
        except ImageError as error:
            raise HTTPException(404, str(error)) from error
        return Response(
            content, media_type="image/jpeg", headers={"cache-control": "private, max-age=60"}
        )

    @api.get(
        "/api/images/{id:any}/thumbnail",
        summary="A small picture of an image",
        response_class=Response,
        responses=_JPEG,
    )
    async def thumbnail(
        id: Id, size: Annotated[int, fastapi.Query(ge=16, le=1024)] = THUMBNAIL
    ) -> Response:
        return await picture_of(id, size, remember=True)

    @api.get(
        "/api/images/{id:any}/picture",
        summary="A picture of an image",
        response_class=Response,
        responses=_JPEG,
    )
    async def picture(
        id: Id, size: Annotated[int, fastapi.Query(ge=16, le=MAX_SIDE)] = PICTURE
    ) -> Response:
        return await picture_of(id, size, remember=False)


def add_change_routes(api: FastAPI, service: Service) -> None:
    """Add the routes that change the index, and that of one image, whose path theirs begin with.

    Args:
        api: the application.
        service: `Service`.
    """
    served, queues, settings = service.served, service.queues, service.settings

    def may_change(request: Request) -> None:
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
        "/api/images",
        summary="Add or replace an image",
        responses=CHANGE_REFUSALS,
        dependencies=writer,
        response_model=schemas.Image,
    )
    async def add_image(
        image: Image,
        id: PostedText,
        label: Annotated[str | None, Form(max_length=MAX_TEXT)] = None,
    ) -> Json:
        own, content = served.current.public_ids.id(id), await image.read()
        size = served.current.index.encoder.config.image_size
        photo = await service.received(content, resized(size))
        await queues["changes"].run(served.add, own, photo, label or None)
        version = served.current
        item = await queues["pictures"].run(questions.item, version, version.public_ids.shown(own))
        return Json(service.described(version, item))

    @api.delete(
        "/api/images",
        summary="Remove the images below folders, those that patterns name, or those of labels",
        responses=CHANGE_REFUSALS,
        dependencies=writer,
        response_model=schemas.RemovedMany,
    )
    async def remove_images(
        folder: Annotated[list[Text], _SEVERAL] = _NONE,
        pattern: Annotated[list[Text], _SEVERAL] = _NONE,
        label: Annotated[list[Text], _SEVERAL] = _NONE,
        dry_run: Annotated[bool, fastapi.Query(description="Remove nothing.")] = False,
    ) -> Json:
        if not (folder or pattern or label):
            raise ArgumentError(
                "What is removed is named.", "no parameters", "Give folder, pattern or label."
            )
        public_ids = served.current.public_ids
        removed = await queues["changes"].run(
            served.remove,
            # Not as folders: whether there is one of some path is nobody's business.
            patterns=[
                *map(public_ids.below, folder),
                *map(public_ids.pattern, pattern),
            ],
            labels=label or None,
            dry_run=dry_run,
        )
        shown = [public_ids.shown(id) for id in removed[:MAX_LISTED]]
        return Json({"total": len(removed), "removed": shown})

    @api.delete(
        "/api/images/{id:any}",
        summary="Remove an image",
        responses=CHANGE_REFUSALS,
        dependencies=writer,
        response_model=schemas.Removed,
    )
    async def remove_image(id: Id) -> Json:
        if not await queues["changes"].run(served.remove, ids=served.current.public_ids.id(id)):
            raise UnknownIdError("Only what is in the index can be removed.", repr(id))
        return Json({"removed": id})

    @api.get(
        "/api/images/{id:any}",
        summary="What is known of an image",
        responses=REFUSALS,
        response_model=schemas.Measured,
    )
    async def image_info(id: Id) -> Json:
        version = served.current
        item, (height, width) = await queues["pictures"].run(
            questions.measured, version, id, service.decoders
        )
        return Json({**service.described(version, item), "height": height, "width": width})
