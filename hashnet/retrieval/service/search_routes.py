"""The routes of searches and of matches."""

from collections.abc import Mapping
from typing import Annotated, Any

import fastapi
from fastapi import FastAPI
from starlette.exceptions import HTTPException

from hashnet.errors import ArgumentError
from hashnet.images.apart import FULL, resized
from hashnet.images.workers import Wish
from hashnet.retrieval.service import parameters, questions, schemas
from hashnet.retrieval.service.answers import REFUSALS, UPLOAD_REFUSALS, Json
from hashnet.retrieval.service.served_index import Version
from hashnet.retrieval.service.settings import MAX_TEXT
from hashnet.retrieval.service.state import Service

_Class = Annotated[
    str | None,
    fastapi.Query(
        alias="class",
        max_length=MAX_TEXT,
        description="A label of the index or a class that the network knows.",
    ),
]


def add_search_routes(api: FastAPI, service: Service) -> None:
    """Add the routes of searches.

    Args:
        api: the application.
        service: `Service`.
    """

    async def answer(asked: Mapping[str, Any], **by: Any) -> Json:
        version = service.served.current
        if asked["verify"] or asked["same_object"]:
            _need_local_features(version)
        if asked["same_object"] and not version.engine.snapshot.keeps_words:
            raise HTTPException(409, "This index is of before local pools; make it anew.")
        if asked["written"] and version.engine.index.store.ocr is None:
            raise HTTPException(409, "In this index no text was read; see `hashnet index --ocr`.")
        if (asked["after"] or asked["before"]) and not version.engine.index.store.exif:
            raise HTTPException(409, "This index has no dates; see `hashnet index --exif`.")
        if "content" in by:
            by["photo"] = await service.received(by.pop("content"), *_wishes(version, asked))
        result = await service.queues["search"].run(
            questions.search, version, asked, decoders=service.decoders, **by
        )
        service.counters.count_stages(result.milliseconds)
        return shown(version, result.to_dict())

    def shown(version: Version, fields: dict[str, Any]) -> Json:
        for hit in fields["hits"]:
            hit["id"] = version.public_ids.shown(hit["id"])
            if not service.settings.show_paths:
                del hit["path"]
        return Json(fields)

    @api.post(
        "/api/search",
        summary="Search by a picture",
        responses=UPLOAD_REFUSALS,
        response_model=schemas.Found,
    )
    async def search_by_image(
        image: parameters.Image, asked: parameters.PostedSearchParameters
    ) -> Json:
        return await answer(asked, content=await image.read())

    @api.post(
        "/api/search/vector",
        summary="Search by a vector",
        responses=REFUSALS,
        response_model=schemas.Found,
    )
    async def search_by_vector(
        vector: parameters.Vector, asked: parameters.SearchParameters
    ) -> Json:
        return await answer(asked, vector=vector)

    @api.get(
        "/api/search",
        summary="Search by an image of the index, or by a label or class",
        responses=REFUSALS,
        response_model=schemas.Found,
    )
    async def search_by_name(
        asked: parameters.SearchParameters, id: parameters.Text | None = None, class_: _Class = None
    ) -> Json:
        if (id is None) == (class_ is None):
            raise ArgumentError("A search is by an id or by a class.", "both or neither")
        return await answer(asked, id=id, name=class_)

    @api.get(
        "/api/search/text",
        summary="Search in words",
        responses=REFUSALS,
        response_model=schemas.FoundInWords,
    )
    async def search_in_words(asked: parameters.WordParameters, text: parameters.Words) -> Json:
        version = service.served.current
        result = await service.queues["search"].run(questions.search_words, version, asked, text)
        return shown(version, result.to_dict())


def add_match_routes(api: FastAPI, service: Service) -> None:
    """Add the routes of matches.

    Args:
        api: the application.
        service: `Service`.
    """

    async def answer(query: str | bytes, hit: str, region: str | None) -> Json:
        version = service.served.current
        _need_local_features(version)
        found = await service.queues["search"].run(
            questions.matches,
            version,
            await service.received(query, FULL) if isinstance(query, bytes) else query,
            hit,
            parameters.box(region),
            service.decoders,
        )
        return Json(found)

    @api.get(
        "/api/matches",
        summary="Which places of two images of the index match",
        responses=REFUSALS,
        response_model=schemas.Matches,
    )
    async def matches(
        query: parameters.Text, hit: parameters.Text, region: parameters.RegionText = None
    ) -> Json:
        return await answer(query, hit, region)

    @api.post(
        "/api/matches",
        summary="Which places of a picture and of an image of the index match",
        responses=UPLOAD_REFUSALS,
        response_model=schemas.Matches,
    )
    async def matches_of_image(
        image: parameters.Image,
        hit: parameters.PostedText,
        region: parameters.PostedRegionText = None,
    ) -> Json:
        return await answer(await image.read(), hit, region)


def _wishes(version: Version, asked: Mapping[str, Any]) -> list[Wish]:
    """What a search decodes of its picture."""
    if asked["region"] is not None:
        return [FULL]
    config = version.engine.index.encoder.config
    if config.takes_vectors:
        return []
    of_network = resized(config.image_size)
    is_seen_whole = asked["verify"] or asked["same_object"] or asked["written"]
    return [of_network, FULL] if is_seen_whole else [of_network]


def _need_local_features(version: Version) -> None:
    if version.engine.index.store.extractor is None:
        raise HTTPException(409, "This index has no local features; see `hashnet index --local`.")
