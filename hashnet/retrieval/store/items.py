"""What an index keeps of its images, whatever kind of index it is, and what it refuses.

Folders (`folder.store`) and databases (`clickhouse.store`) take the same images, refuse
the same ones with the same words, and keep local features in the same bytes.
"""

import dataclasses
import datetime
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from hashnet.codes import code_bytes
from hashnet.errors import ArgumentError, ShapeError, StoreError
from hashnet.images import CONTENT_BYTES, Exif
from hashnet.retrieval.store import texts as image_texts
from hashnet.retrieval.store.texts import Texts

MAX_DESCRIPTOR_DIM = 1 << 16
MAX_REGIONS = 64  # of an image
UNKNOWN = -(2**63)  # how a size or time that the caller did not give is kept
_EPOCH = datetime.datetime(1970, 1, 1)  # noqa: DTZ001  cameras do not say in which zone they are


class Described(Protocol):
    """Local features as far as an index keeps them, wherever they come from."""

    @property
    def yx(self) -> np.ndarray:
        """`(m, 2)`, (row, column) in pixels of the original image."""

    @property
    def descriptors(self) -> np.ndarray:
        """`(m, descriptor_dim)`."""


class Facts(Protocol):
    """What an index keeps of each image; a `Store` of every kind says so."""

    @property
    def num_bits(self) -> int:
        """Length of a code."""

    @property
    def feature_dim(self) -> int:
        """Length of a feature."""

    @property
    def feature_dtype(self) -> str:
        """`"float32"` or `"float16"`."""

    @property
    def extractor(self) -> str | None:
        """Of the local features that every image has; None where there are none."""

    @property
    def descriptor_dim(self) -> int | None:
        """Numbers in the descriptor of a local feature; None where there are none."""

    @property
    def regions_per_image(self) -> int:
        """The most regions that an image has rows for."""

    @property
    def exif(self) -> bool:
        """Whether it keeps when, where and by which camera a photo was taken."""

    @property
    def texts(self) -> bool:
        """Whether it keeps captions."""

    @property
    def ocr(self) -> str | None:
        """What reads the text in the pixels of every image; None where nothing does."""


class Item(NamedTuple):
    """What is known of one image, besides its code and feature.

    Attributes:
        id: str. The caller's stable name; unique in an index. Any str, also one with newlines
            or the lone surrogates that stand for bytes that are no UTF-8.
        path: str or None. Where the image lies.
        label: str or None. Its class.
        size: int or None. Bytes of the file.
        mtime_ns: int or None. When the file was last changed, in nanoseconds.
        ctime_ns: int or None. When its content, name or rights were, by the system's own clock.
        inode: int or None. The number that its file system has for it.
        content: bytes or None. `CONTENT_BYTES` that tell its content from any other: see
            `images.content_hash`.
        exif: `Exif` or None. Where the index keeps such.
        texts: `Texts` or None. Where the index keeps such.
    """

    id: str
    path: str | None = None
    label: str | None = None
    size: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None
    inode: int | None = None
    content: bytes | None = None
    exif: Exif | None = None
    texts: Texts | None = None


@dataclasses.dataclass(frozen=True)
class StoredFeatures:
    """Local features of one image, best first, as an index holds them.

    Attributes:
        yx: float32 `(m, 2)`, (row, column) in pixels of the original image.
        descriptors: float16 `(m, descriptor_dim)`, each of length 1.
    """

    yx: np.ndarray
    descriptors: np.ndarray

    @classmethod
    def from_bytes(cls, yx: bytes, descriptors: bytes, descriptor_dim: int) -> "StoredFeatures":
        """What `bytes_of_local` gave, as local features again.

        Args:
            yx: bytes, of little-endian float32.
            descriptors: bytes, of little-endian float16.
            descriptor_dim: int.

        Returns:
            `StoredFeatures`.

        Raises:
            ValueError: the two are of no such features.

        Example:
            >>> one = StoredFeatures(np.ones((1, 2), "f4"), np.eye(1, 3, dtype="f2"))
            >>> StoredFeatures.from_bytes(*bytes_of_local(one), 3).descriptors.tolist()
            [[1.0, 0.0, 0.0]]
        """
        places = np.frombuffer(yx, "<f4").reshape(-1, 2)
        stored = np.frombuffer(descriptors, "<f2").reshape(-1, descriptor_dim)
        if len(places) != len(stored):
            raise ValueError(f"{len(places)} places for {len(stored)} descriptors")
        return cls(places, stored)


@dataclasses.dataclass(frozen=True)
class CompactReport:
    """What a compaction did: rows and segments before and after, and bytes given back.

    Rows are of images and regions; `regions_gone` says how many of those gone were regions'.

    Attributes:
        rows_before: int.
        rows_after: int.
        segments_before: int.
        segments_after: int.
        bytes_freed: int. Below 0 where the new files are larger.
        regions_gone: int.
    """

    rows_before: int
    rows_after: int
    segments_before: int
    segments_after: int
    bytes_freed: int
    regions_gone: int = 0


def to_bytes(text: str) -> bytes:
    """Text as it is stored: any str comes back as it was.

    Args:
        text: str.

    Returns:
        bytes.
    """
    # surrogatepass gives back every str as it was, one made of a file name's odd bytes included.
    return text.encode("utf-8", "surrogatepass")


def to_text(content: bytes) -> str:
    """What `to_bytes` was given.

    Args:
        content: bytes.

    Returns:
        str.
    """
    return content.decode("utf-8", "surrogatepass")


def bytes_of_local(features: Described) -> tuple[bytes, bytes]:
    """Places and descriptors of one image as every kind of index keeps them.

    Args:
        features: an object with `yx`, `(m, 2)`, and `descriptors`, `(m, descriptor_dim)`.

    Returns:
        yx: bytes, of little-endian float32.
        descriptors: bytes, of little-endian float16.
    """
    return (
        np.ascontiguousarray(features.yx, "<f4").tobytes(),
        np.ascontiguousarray(features.descriptors, "<f2").tobytes(),
    )


def no_local_pool(place: object) -> StoreError:
    """What is raised where an index has no local pool, and none to come.

    Args:
        place: where the index is.

    Returns:
        `StoreError`.
    """
    return StoreError(
        "An index has a local pool if it was made with local features, by this version or later.",
        f"one without: {place}",
        "Make the index anew with `hashnet index --local sift`.",
    )


def no_codebook(place: object) -> StoreError:
    """What is raised where an index has no local pool yet.

    Args:
        place: where the index is.

    Returns:
        `StoreError`.
    """
    return StoreError(
        "An index has a local pool from the end of the first update on that leaves it with enough "
        "local features.",
        f"none yet: {place}",
        "Run `hashnet index` with its folders again.",
    )


def no_local_features(place: object) -> StoreError:
    """What is raised where an index without local features is asked for some.

    Args:
        place: where the index is.

    Returns:
        `StoreError`.
    """
    return StoreError(
        "Verification compares local features.",
        f"an index without any: {place}",
        "Make an index with `hashnet index --local sift`.",
    )


def no_exif(place: object) -> StoreError:
    """What is raised where an index is asked for dates that it does not keep.

    Args:
        place: where the index is.

    Returns:
        `StoreError`.
    """
    return StoreError(
        "Photos are chosen by date where an index keeps what cameras write.",
        f"an index without it: {place}",
        "Make an index with `hashnet index --exif`.",
    )


def no_texts(place: object) -> StoreError:
    """What is raised where an index is given captions that it does not keep.

    Args:
        place: where the index is.

    Returns:
        `StoreError`.
    """
    return StoreError(
        "Captions are kept by index folders of format version 7 on, and by tables of 6 on.",
        f"one that keeps none: {place}",
        "Make the index anew with `hashnet index`.",
    )


def check_ocr(ocr: str | None) -> None:
    """Refuse a reader of text that no index has.

    Args:
        ocr: str or None, its name.

    Raises:
        ArgumentError: it is no name.
    """
    if ocr is not None and not (isinstance(ocr, str) and ocr):
        raise ArgumentError("What reads text in images has a name.", f"{ocr=}")


def check_extractor(extractor: str | None, descriptor_dim: int | None) -> None:
    """Refuse local features that no index has.

    Args:
        extractor: str or None.
        descriptor_dim: int, or None without an extractor.

    Raises:
        ArgumentError: one of the two is missing or out of its range.
    """
    if extractor is None:
        sound = descriptor_dim is None
    else:
        sound = (
            isinstance(extractor, str)
            and isinstance(descriptor_dim, int)
            and 1 <= descriptor_dim <= MAX_DESCRIPTOR_DIM
        )
    if not sound:
        raise ArgumentError(
            "Local features have an extractor's name and the size of a descriptor.",
            f"{extractor=}, {descriptor_dim=}",
        )


def check_regions_per_image(number: int) -> None:
    """Refuse a number of regions that no index has.

    Args:
        number: int.

    Raises:
        ArgumentError: it is below 0 or too large.
    """
    if not (isinstance(number, int) and 0 <= number <= MAX_REGIONS):
        raise ArgumentError(f"An image has 0 to {MAX_REGIONS} regions.", f"regions={number!r}")


def check_items(items: Sequence[Item]) -> None:
    """Refuse items that no index takes.

    Args:
        items: list of `Item`.

    Raises:
        ArgumentError: one has fields of other kinds, or an id comes twice.
    """
    ids = set()
    for item in items:
        _check_item(item)
        if item.id in ids:
            raise ArgumentError(
                "An id occurs once in a call.", repr(item.id), "Keep one of the two."
            )
        ids.add(item.id)


def _check_item(item: Item) -> None:
    words = (item.id, *(word for word in (item.path, item.label) if word is not None))
    numbers = (item.size, item.mtime_ns, item.ctime_ns)
    if not (
        all(isinstance(word, str) for word in words)
        and all(_is_integer(n, UNKNOWN + 1, 2**63) for n in numbers if n is not None)
        and (item.inode is None or _is_integer(item.inode, 0, 2**64))
    ):
        raise ArgumentError(
            "The id, path and label of an item are text, size and times 64-bit integers.",
            repr(item),
            "Only the id must be there; leave the others None where they are not known.",
        )
    content = item.content
    if content is not None and not (isinstance(content, bytes) and len(content) == CONTENT_BYTES):
        raise ArgumentError(f"The content of an item is {CONTENT_BYTES} bytes.", repr(content))
    if item.exif is not None:
        _check_exif(item.exif)
    if item.texts is not None:
        image_texts.check(item.texts)


def _is_integer(number: object, low: int, end: int) -> bool:
    return isinstance(number, int | np.integer) and low <= int(number) < end


def _check_exif(exif: Exif) -> None:
    places = [place for place in (exif.latitude, exif.longitude) if place is not None]
    if not (
        (exif.taken is None or isinstance(exif.taken, datetime.datetime))
        and (exif.camera is None or isinstance(exif.camera, str))
        and all(isinstance(place, float) and math.isfinite(place) for place in places)
    ):
        raise ArgumentError(
            "What a camera writes is a date, two finite numbers and a text.", repr(exif)
        )


def seconds_of(taken: datetime.datetime) -> int:
    """A date by the camera's clock as it is stored.

    Args:
        taken: datetime.datetime without a zone.

    Returns:
        int, seconds since the beginning of 1970 by the same clock.

    Example:
        >>> seconds_of(datetime.datetime(1970, 1, 2)), date_of(86400).isoformat()
        (86400, '1970-01-02T00:00:00')
    """
    return (taken.replace(tzinfo=None) - _EPOCH) // datetime.timedelta(seconds=1)


def date_of(seconds: int) -> datetime.datetime:
    """What `seconds_of` was given, to the second.

    Args:
        seconds: int.

    Returns:
        datetime.datetime without a zone.

    Raises:
        OverflowError: it is no date of the years 1 to 9999.
    """
    return _EPOCH + datetime.timedelta(seconds=seconds)


def check_images(
    facts: Facts,
    items: Sequence[Item],
    codes: np.ndarray,
    features: np.ndarray,
    local_features: Sequence[Described] | None,
    regions: Sequence[Any] | None,
) -> tuple[list[int], np.ndarray | None]:
    """Refuse images that an index does not take, whatever kind of index it is.

    Args:
        facts: what the index keeps: an object with `num_bits`, `feature_dim`, `feature_dtype`,
            `descriptor_dim` and `regions_per_image`, such as a `Store`.
        items: list of n `Item`.
        codes, features, local_features, regions: as for `Writer.add`.

    Returns:
        counts: list of n int. How many rows each image has: its own, and those of its regions.
        regions: int32 `(num_rows, 4)`, zeros for whole images; None without regions.

    Raises:
        ArgumentError, ShapeError: as for `Writer.add`.
    """
    check_items(items)
    _refuse_local(facts, items, local_features)
    counts, of_rows = _checked_regions(facts, items, regions)
    rows = items_of_rows(items, counts)
    _refuse_arrays(facts, rows, codes, features)
    return counts, of_rows


def items_of_rows(items: Sequence[Item], counts: Sequence[int]) -> list[Item]:
    """The item of each row: an image's own, and once more for each of its regions.

    Args:
        items: list of n `Item`.
        counts: list of n int, from `check_images`.

    Returns:
        list of `Item`.

    Example:
        >>> [item.id for item in items_of_rows([Item("cat"), Item("dog")], [2, 1])]
        ['cat', 'cat', 'dog']
    """
    # Not with NumPy, which takes a tuple apart.
    return [item for item, count in zip(items, counts, strict=True) for _ in range(count)]


def _refuse_arrays(
    facts: Facts, items: Sequence[Item], codes: np.ndarray, features: np.ndarray
) -> None:
    for name, array, dtype, width in (
        ("codes", codes, np.dtype(np.uint8), code_bytes(facts.num_bits)),
        ("features", features, np.dtype(facts.feature_dtype), facts.feature_dim),
    ):
        wanted = (len(items), width)
        if array.dtype != dtype or array.shape != wanted:
            raise ShapeError(
                f"The {name} of {len(items)} items are {dtype.name} of shape {wanted}.",
                f"{array.dtype} of shape {array.shape}",
                "Was the index built with another model?",
            )
    finite = np.isfinite(features).all(axis=-1)
    if not finite.all():
        raise ArgumentError(
            "A feature holds finite numbers.",
            f"NaN or infinity in the feature of {items[int(np.argmin(finite))].id!r}",
            "Leave this image out, or store features as float32.",
        )


def _refuse_local(
    facts: Facts, items: Sequence[Item], local_features: Sequence[Described] | None
) -> None:
    dim = facts.descriptor_dim
    given = _of_all("local features", dim is not None, local_features, items)
    for item, features in zip(items, given, strict=False):  # of none where the index keeps none
        shapes = np.shape(features.yx), np.shape(features.descriptors)
        count = len(features.yx)
        if shapes != ((count, 2), (count, dim)):
            raise ShapeError(
                f"Local features have places (m, 2) and descriptors (m, {dim}).",
                f"{shapes[0]} and {shapes[1]} for {item.id!r}",
                "Was the index built with another extractor?",
            )
        if not (np.isfinite(features.yx).all() and np.isfinite(features.descriptors).all()):
            raise ArgumentError(
                "A local feature holds finite numbers.",
                f"NaN or infinity in those of {item.id!r}",
                "Leave this image out.",
            )


def _checked_regions(
    facts: Facts, items: Sequence[Item], regions: Sequence[Any] | None
) -> tuple[list[int], np.ndarray | None]:
    """How many rows each image has, and the regions of all rows, None without any."""
    most = facts.regions_per_image
    given = [np.asarray(of_image) for of_image in _of_all("regions", most > 0, regions, items)]
    if not most:
        return [1] * len(items), None
    for item, of_image in zip(items, given, strict=True):
        if of_image.ndim != 2 or of_image.shape[1] != 4 or of_image.dtype.kind not in "iu":
            raise ShapeError(
                "The regions of an image are whole numbers of shape (r, 4).",
                f"{of_image.dtype} of shape {of_image.shape} for {item.id!r}",
            )
        top, left, bottom, right = of_image.astype(np.int64).T
        inside = (0 <= top) & (top < bottom) & (0 <= left) & (left < right)
        small = (bottom < 2**31) & (right < 2**31)
        if len(of_image) > most or not (inside & small).all():
            raise ArgumentError(
                f"An image of this index has up to {most} regions, each (top, left, bottom, "
                "right) with an area.",
                f"{of_image.tolist()} for {item.id!r}",
            )
    whole = np.zeros((1, 4), "<i4")
    rows = [part.astype("<i4") for of_image in given for part in (whole, of_image)]
    return [1 + len(of_image) for of_image in given], np.concatenate([whole[:0], *rows])


def _of_all(
    what: str, kept: bool, given: Sequence[Any] | None, items: Sequence[Item]
) -> Sequence[Any]:
    """What an index keeps of all its images, or of none; refused where only some would have it."""
    if kept != (given is not None):
        raise ArgumentError(
            f"An index has {what} of all its images or of none.",
            f"{'none' if given is None else 'some'} for an index "
            f"{'with' if kept else 'without'} them",
            "Whether it has them is settled when an index is made.",
        )
    if given is None:
        return []
    if len(given) != len(items):
        raise ShapeError(f"Every image has {what}, if only none.", f"{len(given)} of {len(items)}")
    return given
