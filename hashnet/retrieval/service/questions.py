"""What a request asks of the engine, in the public ids of one version of the index.

All of it may block: it runs on the threads of a work queue.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from starlette.exceptions import HTTPException

from hashnet import images
from hashnet.errors import ArgumentError, ImageError, RegionError, UnknownIdError
from hashnet.images.apart import FULL, Decoders
from hashnet.retrieval.search.hits import SearchResult
from hashnet.retrieval.search.query import Query
from hashnet.retrieval.service.parameters import Region, box
from hashnet.retrieval.service.served_index import Version
from hashnet.retrieval.store.items import Item
from hashnet.retrieval.words.results import TextResult

Answer = TypeVar("Answer")

IDS_SHOWN = 3


def search(
    version: Version,
    parameters: Mapping[str, Any],
    *,
    decoders: Decoders,
    photo: images.Photo | None = None,
    id: str | None = None,
    name: str | None = None,
    vector: Sequence[float] | None = None,
) -> SearchResult:
    """Search by the content of a picture, an image of the index, a prototype, or a vector.

    Args:
        version: `Version`.
        parameters: as `parameters` has them.
        decoders: `Decoders`, of the file of an image whose region is asked for.
        photo: `images.Photo`, or None.
        id: str, a public id; or None.
        name: str, a label or class; or None.
        vector: floats, as many as a feature has numbers; or None.

    Returns:
        A `SearchResult`, whose hits have their own ids.

    Raises:
        HashnetError: as the engine does; an `UnknownIdError` names public ids.
        HTTPException: of an image that a region is to be cut out of there is no file.
    """
    engine, own = version.engine, version.public_ids.id
    query = Query(
        k=parameters["k"],
        threshold=parameters["threshold"],
        pool=parameters["pool"],
        labels=parameters["label"] or None,
        ids=[own(one) for one in parameters["ids"]] or None,
        after=parameters["after"],
        before=parameters["before"],
        under=_folders(version, parameters["under"]),
        region=box(parameters["region"]),
        right=[own(one) for one in parameters["right"]],
        wrong=[own(one) for one in parameters["wrong"]],
        text=parameters["text"],
        text_weight=parameters["text_weight"],
        rank_by=parameters["rank_by"],
        rerank=parameters["rerank"],
        rerank_top=parameters["rerank_top"],
        rerank_neighbours=parameters["rerank_neighbours"],
        until_unlike=parameters["until_unlike"],
        histogram=True,
        verify=parameters["verify"],
        matcher=parameters["matcher"],
        same_object=parameters["same_object"],
        written=parameters["written"],
    )
    named = [*([] if id is None else [id]), *parameters["right"], *parameters["wrong"]]
    with_filter = [*named, *parameters["ids"]]
    if photo is not None:
        return _by_public_ids(version, with_filter, lambda: engine.search(photo, query))
    if vector is not None:
        wanted = np.array(vector, np.float64)
        return _by_public_ids(version, with_filter, lambda: engine.search_vector(wanted, query))
    if name is not None:
        code, feature = version.prototypes.query(name)
        return _by_public_ids(
            version, with_filter, lambda: engine.search_encoded(code, feature, query, name=name)
        )
    assert id is not None
    if query.region is None:
        result = _by_public_ids(version, with_filter, lambda: engine.search_id(own(id), query))
    else:
        path = _file_of(version, id)
        result = _by_public_ids(
            version,
            with_filter,
            lambda: _of_file(lambda: engine.search(decoders.photo(path, FULL), query)),
        )
    return replace(result, query=id)


def search_words(version: Version, parameters: Mapping[str, Any], text: str) -> TextResult:
    """Search in words.

    Args:
        version: `Version`.
        parameters: as `parameters.WordParameters` has them.
        text: str.

    Returns:
        A `TextResult`, whose hits have their own ids.

    Raises:
        HashnetError: as for `WordBox.search`; an `UnknownIdError` names public ids.
    """
    query = Query(
        k=parameters["k"],
        labels=parameters["label"] or None,
        ids=[version.public_ids.id(one) for one in parameters["ids"]] or None,
        after=parameters["after"],
        before=parameters["before"],
        under=_folders(version, parameters["under"]),
    )
    words = version.engine.words
    return _by_public_ids(version, parameters["ids"], lambda: words.search(text, query))


def _folders(version: Version, names: Sequence[str]) -> list[str] | None:
    """Folders by what ids begin with: whether there is one of some path is nobody's business."""
    folders = [version.public_ids.id(name.rstrip("/") + "/") for name in names]
    unknown = [
        name
        for name, folder in zip(names, folders, strict=True)
        if version.engine.snapshot.id_ends(folder) is None
    ]
    if unknown:
        raise ArgumentError(
            "A search under a folder needs one that images lie in.",
            ", ".join(map(repr, unknown[:IDS_SHOWN])),
            "Name it as ids begin.",
        )
    return folders or None


def matches(
    version: Version,
    query: str | images.Photo,
    hit: str,
    region: Region | None,
    decoders: Decoders,
) -> dict[str, Any]:
    """Where a query matches an image.

    Args:
        version: `Version`.
        query: str, a public id; or an `images.Photo`.
        hit: str, a public id.
        region: of the query, or None.
        decoders: as for `search`.

    Returns:
        dict that JSON can hold: the inliers, by which extractor they verify, and their places in
        pixels of the two.

    Raises:
        HashnetError, HTTPException: as for `search`.
    """
    engine, own = version.engine, version.public_ids.id

    def found() -> Any:
        if isinstance(query, images.Photo):
            return engine.match(query, own(hit), region=region)
        if region is None:
            return engine.match_id(own(query), own(hit))
        path = _file_of(version, query)
        return _of_file(lambda: engine.match(decoders.photo(path, FULL), own(hit), region=region))

    named = [hit] if isinstance(query, images.Photo) else [query, hit]
    verification = _by_public_ids(version, named, found)
    return {
        "inliers": verification.inliers,
        "verified_by": verification.extractor if verification.same else None,
        "query": {"yx": verification.query_yx.tolist()},
        "hit": {"yx": verification.yx.tolist()},
    }


def item(version: Version, id: str) -> Item:
    """The item of an image.

    Args:
        version: `Version`.
        id: str, a public id.

    Returns:
        `Item`.

    Raises:
        UnknownIdError: there is none; the message names the public id.
    """
    snapshot = version.engine.snapshot
    rows = snapshot.rows([version.public_ids.id(id)])
    if rows[0] < 0:
        raise _unknown([id])
    found: Item = snapshot.items(rows)[0]
    return found


def measured(
    version: Version, id: str, decoders: Decoders
) -> tuple[Item, tuple[int | None, int | None]]:
    """An item, and (height, width) of the upright picture in its file; Nones if there is none.

    A picture that is shown may be smaller than the photo, in whose pixels matches and regions are.

    Args:
        version: `Version`.
        id: str, a public id.
        decoders: `Decoders`.

    Returns:
        `Item` and size.

    Raises:
        UnknownIdError: as for `item`.
    """
    found = item(version, id)
    try:
        return found, decoders.photo(found.path).size if found.path else (None, None)
    except ImageError:
        return found, (None, None)


def _by_public_ids(
    version: Version, public_ids: Sequence[str], ask: Callable[[], Answer]
) -> Answer:
    """What is answered; where an id is unknown, its public id is named, without a folder."""
    try:
        return ask()
    except UnknownIdError:
        rows = version.engine.snapshot.rows([version.public_ids.id(one) for one in public_ids])
        unknown = [one for one, row in zip(public_ids, rows, strict=True) if row < 0]
        raise _unknown(unknown) from None


def _unknown(public_ids: Sequence[str]) -> UnknownIdError:
    more = f" and {len(public_ids) - IDS_SHOWN} more" if len(public_ids) > IDS_SHOWN else ""
    return UnknownIdError(
        "The index holds no image of this id.",
        ", ".join(map(repr, public_ids[:IDS_SHOWN])) + more,
    )


def _file_of(version: Version, id: str) -> str:
    path = item(version, id).path
    if path is None or not os.path.isfile(path):
        raise HTTPException(404, "Of this image no file is known, to cut a region from.")
    return path


def _of_file(ask: Callable[[], Answer]) -> Answer:
    """What is answered of the file of an image of the index, which may have changed."""
    try:
        return ask()
    except RegionError:
        raise
    except ImageError as error:
        raise HTTPException(404, "The file of this image is no picture any more.") from error
