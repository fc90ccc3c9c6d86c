"""What answers hold, for the OpenAPI document; tests compare what the service answers with it."""

import typing
from typing import Any, Literal

import pydantic

from hashnet.retrieval.search.hits import Hit
from hashnet.retrieval.service.settings import MAX_LISTED

Stage = Literal["encode", "coarse", "fine", "verify"]


class Answer(pydantic.BaseModel):
    """An object with these fields and no others."""

    model_config = pydantic.ConfigDict(extra="forbid")


class Health(Answer):
    """Whether the service is up, and of how many images."""

    status: Literal["ok"]
    items: int


class Label(Answer):
    """A label, and how many images have it."""

    name: str
    count: int


class Labels(Answer):
    """Some of the labels, by name; `total` counts all that were asked for."""

    total: int
    labels: list[Label]


class Info(Answer):
    """What can be searched for. Of labels and classes some are told, and how many there are."""

    items: int
    bits: int
    num_labels: int
    labels: list[Label] = pydantic.Field(max_length=MAX_LISTED)
    num_classes: int
    classes: list[str] = pydantic.Field(max_length=MAX_LISTED)
    local: str | None
    grades: bool
    exif: bool
    folders: list[str]
    writable: bool


class Image(Answer):
    """What is told of an image; where it lies and was taken where the service shows paths."""

    id: str
    label: str | None
    bytes: int | None
    taken: str | None = None
    camera: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    path: str | None = None


class Images(Answer):
    """Some images; `total` counts all that were asked for."""

    total: int
    images: list[Image]


class Measured(Image):
    """An image, and the size of the upright picture in its file, in pixels."""

    height: int | None
    width: int | None


def _hit_model() -> Any:
    """A model with the fields of a `Hit`, of which the path is told where paths are shown."""
    fields: dict[str, Any] = {
        name: (kind, ...) for name, kind in typing.get_type_hints(Hit).items()
    }
    fields["path"] = (str | None, None)
    return pydantic.create_model(
        "Hit", __base__=Answer, __doc__="One image that was found.", **fields
    )


class Found(Answer):
    """What a search has found, best first, as `hashnet search --json` prints it."""

    query: str
    threshold: int | None
    pool: int
    milliseconds: dict[Stage, float | None]
    hits: list[_hit_model()]  # type: ignore[valid-type]
    histogram: list[int]


class Places(Answer):
    """Places in an image: row and column, in pixels of the upright original."""

    yx: list[tuple[float, float]]


class Matches(Answer):
    """Which places of a query and of an image match; place i of one belongs to place i of both."""

    inliers: int
    query: Places
    hit: Places


class Removed(Answer):
    """The image that was removed."""

    removed: str


class RemovedMany(Answer):
    """How many images were removed, or would be, and the first of them."""

    total: int
    removed: list[str] = pydantic.Field(max_length=MAX_LISTED)
