"""What answers hold, for the OpenAPI document; tests compare what the service answers with it."""

import typing
from typing import Any, Literal

import pydantic

from hashnet.retrieval.search.hits import Hit
from hashnet.retrieval.service.settings import MAX_LISTED
from hashnet.retrieval.words.results import TextHit

Stage = Literal["encode", "coarse", "fine", "rerank", "read", "verify"]


class Answer(pydantic.BaseModel):
    """An object with these fields and no others."""

    model_config = pydantic.ConfigDict(extra="forbid")


class Health(Answer):
    """Whether the service is up.

    Attributes:
        status: "ok".
        items: int, images of the index.
    """

    status: Literal["ok"]
    items: int


class Label(Answer):
    """A label.

    Attributes:
        name: str.
        count: int, images that have it.
    """

    name: str
    count: int


class Labels(Answer):
    """Some of the labels.

    Attributes:
        total: int. All that were asked for.
        labels: list of `Label`, by name.
    """

    total: int
    labels: list[Label]


class Info(Answer):
    """What can be searched for.

    Attributes:
        items: int, images of the index.
        bits: int, of a code.
        num_labels: int. All labels.
        labels: list of `Label`, the first of them by name.
        num_classes: int. All classes that the network knows.
        classes: list of str, the first of them.
        local: str or None, the extractor of local features; several with commas between.
        grades: bool. Whether hits are graded.
        ocr: bool. Whether the text in images was read.
        exif: bool. Whether dates are known.
        folders: list of str. What ids of files begin with.
        writable: bool. Whether the service allows changes.
    """

    items: int
    bits: int
    num_labels: int
    labels: list[Label] = pydantic.Field(max_length=MAX_LISTED)
    num_classes: int
    classes: list[str] = pydantic.Field(max_length=MAX_LISTED)
    local: str | None
    grades: bool
    ocr: bool
    exif: bool
    folders: list[str]
    writable: bool


class Image(Answer):
    """What is told of an image.

    Attributes:
        id: str.
        label: str or None.
        bytes: int or None, of its file.
        taken: str or None, when, by the camera's clock; in an index that keeps it, as is the next.
        camera: str or None.
        latitude, longitude: float or None; where the service shows paths, too, as is the next.
        path: str or None, of its file.
    """

    id: str
    label: str | None
    bytes: int | None
    taken: str | None = None
    camera: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    path: str | None = None


class Images(Answer):
    """Some images.

    Attributes:
        total: int. All that were asked for.
        images: list of `Image`.
    """

    total: int
    images: list[Image]


class Measured(Image):
    """An image, and the size of the upright picture in its file.

    Attributes:
        height, width: int or None, in pixels.
    """

    height: int | None
    width: int | None


def _hit_model(kind: type, doc: str) -> Any:
    """A model with the fields of a kind of hit; the path is told where paths are shown."""
    fields: dict[str, Any] = {
        name: (hint, ...) for name, hint in typing.get_type_hints(kind).items()
    }
    fields["path"] = (str | None, None)
    return pydantic.create_model(kind.__name__, __base__=Answer, __doc__=doc, **fields)


class Found(Answer):
    """What a search has found, as `hashnet search --json` prints it.

    Attributes:
        query, threshold, pool, milliseconds: as of a `SearchResult`.
        hits: list of the fields of a `Hit`, best first; the path where the service shows paths.
        histogram: list of int. Images at each Hamming distance.
    """

    query: str
    threshold: int | None
    pool: int
    milliseconds: dict[Stage, float | None]
    hits: list[_hit_model(Hit, "One image that was found.")]  # type: ignore[valid-type]
    histogram: list[int]


class FoundInWords(Answer):
    """What a search in words has found, as `hashnet search --text --json` prints it.

    Attributes:
        query, found, milliseconds, missing, suggestions: as of a `TextResult`.
        hits: list of the fields of a `TextHit`, best first; the path where the service shows paths.
    """

    query: str
    found: int
    milliseconds: dict[str, float]
    missing: dict[str, str]
    suggestions: list[str]
    hits: list[_hit_model(TextHit, "One image that was found in words.")]  # type: ignore[valid-type]


class Places(Answer):
    """Places in an image.

    Attributes:
        yx: list of float pairs, (row, column) in pixels of the upright original.
    """

    yx: list[tuple[float, float]]


class Matches(Answer):
    """Which places of a query and of an image match.

    Attributes:
        inliers: int. How many do.
        verified_by: str or None. The extractor of the local features that show the same thing.
        query: `Places` in the query.
        hit: `Places` in the image, in the same order.
    """

    inliers: int
    verified_by: str | None
    query: Places
    hit: Places


class Removed(Answer):
    """The image that was removed.

    Attributes:
        removed: str, its id.
    """

    removed: str


class RemovedMany(Answer):
    """The images that were removed, or would be.

    Attributes:
        total: int. All of them.
        removed: list of str, the ids of the first.
    """

    total: int
    removed: list[str] = pydantic.Field(max_length=MAX_LISTED)
