"""What an index keeps its images in: the contract of `Store`, `Snapshot` and `Writer`.

A folder (`folder.store`) and a table in ClickHouse (`clickhouse.store`) implement it; the type
checker holds both to it, tests/test_contracts.py to the same answers. What one of them cannot do
it refuses with `unsupported`.
"""

import os
import pathlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol, TypeVar

import numpy as np

from hashnet.errors import StoreError
from hashnet.local.codebook import Codebook
from hashnet.retrieval.store.items import CompactReport, Described, Facts, Item, StoredFeatures
from hashnet.retrieval.store.roots import Roots

Rows = Sequence[int] | np.ndarray
# A region of an image: top, left, bottom, right in pixels.
Region = tuple[int, int, int, int]
Self = TypeVar("Self")


def unsupported(what: str, place: object) -> StoreError:
    """The error for what one kind of index cannot do.

    Args:
        what: str, such as "all features at once".
        place: where the index is.

    Returns:
        `StoreError`, to be raised.
    """
    return StoreError(
        f"This kind of index does not offer {what}.",
        str(place),
        "Make an index in a folder for it.",
    )


class Codes(Protocol):
    """Codes by row."""

    def __getitem__(self, rows: Any, /) -> np.ndarray:
        """uint8 `(code_bytes,)` of one row, or `(n, code_bytes)` of n rows."""


class Snapshot(Protocol):
    """An index as of one commit, whatever writers do later.

    Made by `Store.snapshot`. Safe to use from several threads. Close it, or use it as a context
    manager, when it is no longer needed.
    """

    @property
    def num_rows(self) -> int:
        """int. Rows, those of regions and those that are not live included."""

    @property
    def num_items(self) -> int:
        """int. Live images."""

    @property
    def num_regions(self) -> int:
        """int. Live rows of regions."""

    @property
    def roots(self) -> Roots:
        """`Roots`: how ids and paths of files belong together, as of this commit."""

    @property
    def codes(self) -> Codes:
        """Codes by row; in a folder a read-only uint8 array `(num_rows, code_bytes)` in memory."""

    @property
    def live(self) -> np.ndarray | None:
        """bool `(num_rows,)`: the live rows, those of regions included; None where all are.

        Raises:
            StoreError: a table does not offer it, nor the next three.
        """

    @property
    def live_images(self) -> np.ndarray | None:
        """bool `(num_rows,)`: the live rows of whole images; None where every row is such."""

    @property
    def owners(self) -> np.ndarray | None:
        """int64 `(num_rows,)`, ascending: the row of the whole image that each row is of.

        None in an index without regions.
        """

    def features(self, rows: Rows) -> np.ndarray:
        """Features of some rows, each verified when it is read for the first time.

        Args:
            rows: int `(n,)`.

        Returns:
            An array of the index's feature dtype, of shape `(n, feature_dim)`.

        Raises:
            StoreError: one is damaged; the message names the file and the row.
        """

    def feature_map(self, rows: Rows) -> np.ndarray:
        """All features where they lie, of which those of some rows are verified, as by `features`.

        Args:
            rows: int `(n,)`.

        Returns:
            float32 or float16 `(num_rows, feature_dim)`, mapped.

        Raises:
            StoreError: one is damaged, or a table, which does not offer it.
        """

    def local_features(self, rows: Rows) -> list[StoredFeatures]:
        """Local features of some rows, each verified.

        Args:
            rows: int `(n,)`.

        Returns:
            list of n `StoredFeatures`.

        Raises:
            StoreError: the index has none, or these are damaged.
        """

    def candidates(self, rows: Rows) -> list[Callable[[], StoredFeatures]]:
        """Local features of some rows, each to be read when its turn comes.

        Args:
            rows: int `(n,)`.

        Returns:
            list of n functions, for `verify.verify_all`; each to be called once, by any
            thread. They raise what `local_features` does.
        """

    @property
    def keeps_words(self) -> bool:
        """bool. Whether the index keeps a local pool, or may: one with local features does."""

    @property
    def codebook(self) -> Codebook | None:
        """`Codebook` by whose words the images lie in the local pool; None while there is none."""

    def local_pool_bytes(self) -> int:
        """Bytes of the local pool on disk, with the codebook and what a compaction would drop."""

    @property
    def num_local_features(self) -> int:
        """int. Local features of all images, or some more: also of images that are out."""

    def local_counts(self) -> tuple[np.ndarray, np.ndarray]:
        """How many local features there are, to draw some of them.

        Returns:
            rows: int64 `(n,)`, ascending, of all images.
            counts: int64 `(n,)`.

        Raises:
            StoreError: the index has none, or where they lie is damaged.
        """

    def regions(self, rows: Rows) -> list[Region | None]:
        """The regions that some rows are of.

        Args:
            rows: int `(n,)`.

        Returns:
            list of n (top, left, bottom, right) in pixels, None for a whole image.
        """

    def items(self, rows: Rows) -> list[Item]:
        """Items of some rows, each verified; rows that are not live still have theirs.

        A region has the item of its image.

        Args:
            rows: int `(n,)`.

        Returns:
            list of n `Item`.

        Raises:
            StoreError: one is damaged.
        """

    def items_in_order(self) -> Iterator[Item]:
        """The items of all images, in the order of their rows, some thousand in memory at once.

        Returns:
            Iterator of `Item`.
        """

    def ids(self, offset: int = 0, limit: int | None = None) -> list[str]:
        """Ids of images, in the order of their rows.

        Args:
            offset: int. How many images to pass over.
            limit: int. How many ids at most, or None for all that follow.

        Returns:
            list of str.
        """

    def rows(self, ids: Sequence[str]) -> np.ndarray:
        """The row of each image.

        Args:
            ids: n str.

        Returns:
            int64 `(n,)`; -1 for an unknown id.
        """

    def rows_beginning_with(self, start: str) -> np.ndarray:
        """Rows of the images whose ids begin in some way, as those of one folder's files do.

        Args:
            start: str, such as "/photos/2026/".

        Returns:
            int64 `(n,)`, ascending.
        """

    def rows_of_label(self, label: str) -> np.ndarray:
        """Rows of the images of one label.

        Args:
            label: str.

        Returns:
            int64 `(n,)`, ascending; of none for an unknown label.
        """

    def rows_of_sizes(self, sizes: Sequence[int]) -> np.ndarray:
        """Rows of the images whose files have one of some sizes, to see which may be the same.

        Args:
            sizes: int, bytes.

        Returns:
            int64 `(n,)`, ascending.
        """

    def rows_taken(self, after: datetime | None, before: datetime | None) -> np.ndarray:
        """Rows of the images that were taken in some time, by the camera's clock.

        Args:
            after: datetime without a zone, or None. The first second.
            before: the same. The second behind the last.

        Returns:
            int64 `(n,)`, ascending; of none whose date is not known.

        Raises:
            StoreError: the index keeps no dates.
        """

    def id_ends(self, start: str) -> tuple[str, str] | None:
        """Of the ids that begin so, the first and the last in the order of their bytes.

        What these two begin with, all between them do.

        Args:
            start: str.

        Returns:
            Two str; None where no id begins so.
        """

    def ids_outside(self, start: str) -> Collection[str]:
        """The ids that do not begin so.

        Args:
            start: str.

        Returns:
            Collection of str, in no order.
        """

    def labels(self) -> tuple[np.ndarray, list[str]]:
        """Labels of all rows.

        Returns:
            places: int32 `(num_rows,)`: a place in `names`, -1 for a row of a region, one that
                is not live or one without a label.
            names: list of str, each once, in the order in which they first occur.

        Raises:
            StoreError: a table does not offer it.
        """

    def label_counts(self) -> dict[str, int]:
        """How many images have each label, in the order in which labels first occur."""

    def bit_shares(self, most: int) -> np.ndarray:
        """Which share of the images each bit is set in.

        Args:
            most: int. Of more images than twice as many, about as many are looked at.

        Returns:
            float64 `(num_bits,)`, 0 to 1; of no image zeros.
        """

    def close(self) -> None:
        """Let go of what is held. Arrays that were handed out stay valid."""

    def __enter__(self: Self) -> Self:
        """The snapshot itself."""

    def __exit__(self, *_: object) -> None:
        """Close it."""


class Writer(Protocol):
    """The one writer of an index; made by `Store.writer`, used as a context manager.

    Every method that changes the index commits before it returns: what it returned for is kept
    through a kill or a power loss. In a folder each does so at once, in ClickHouse in batches.
    Not safe to use from several threads at once.
    """

    def add(
        self,
        items: Iterable[Item],
        codes: np.ndarray,
        features: np.ndarray,
        local_features: Sequence[Described] | None = None,
        regions: Sequence[Any] | None = None,
    ) -> int:
        """Add images. An id that is there already is replaced.

        Args:
            items: of length n; ids may not repeat.
            codes: uint8 `(n, code_bytes)`.
            features: float32 or float16, as the index stores them, `(n, feature_dim)`, finite.
            local_features: where the index has such, n objects with `yx`, `(m, 2)`, and
                `descriptors`, `(m, descriptor_dim)`, both finite; m may differ and be 0.
            regions: where the index has such, n int arrays of shape `(r, 4)`: top, left, bottom
                and right of each region of an image; r may differ and be 0. Codes and features
                then have a row for each image and, right behind it, one for each of its regions.

        Returns:
            int. How many were added, n.

        Raises:
            ArgumentError: an id repeats, or a feature holds NaN or infinity.
            ShapeError: an array has another dtype or shape.
            StoreError: the disk or the server refuses.
        """

    @property
    def roots(self) -> Roots:
        """`Roots`, as of now."""

    def set_roots(self, roots: Roots) -> None:
        """Change the folders that the index takes photos from; ids stay as they are.

        Args:
            roots: `Roots`.

        Raises:
            ArgumentError: the index keeps none.
        """

    def update(self, items: Iterable[Item]) -> int:
        """Change what is known of images that are there, without encoding them again.

        Their codes and features, local ones and those of regions included, are copied to new
        rows, in pieces, so that memory stays bounded.

        Args:
            items: iterable of `Item`; their ids are in the index.

        Returns:
            int. How many were changed.

        Raises:
            ArgumentError: an id is unknown or repeats.
        """

    def copy(self, items: Iterable[Item], ids: Iterable[str], gone: Iterable[str] = ()) -> int:
        """Give images what others hold: codes, features, local ones and regions.

        Args:
            items: n `Item`; one whose id is there already is replaced.
            ids: n str. Of the images that they are copies of, as they were before this.
            gone: ids of images that are removed in the same commit; of a table, in the last.

        Returns:
            int, n.

        Raises:
            ArgumentError: one of `ids` is unknown, or an id of `items` repeats.
        """

    def remove(self, ids: Iterable[str]) -> list[str]:
        """Remove images with their regions.

        Args:
            ids: iterable of str; unknown ones are passed over.

        Returns:
            list of str: the ids that were there and are no more, in the order given.
        """

    def recode(
        self,
        encoder_files: Mapping[str, str | os.PathLike[str]],
        fingerprint: str,
        recoded: Callable[[np.ndarray], np.ndarray],
    ) -> int:
        """Put another encoder, and the codes that it gives, in place of those that are there.

        Features stay as they are, and so does all else; it is a compaction besides. Snapshots of a
        folder that are open keep working; those of a table see errors.

        Args:
            encoder_files: as for `Store.create`.
            fingerprint: str. Of the encoder.
            recoded: function of features, `(n, feature_dim)` as the index stores them, which gives
                their codes, uint8 `(n, code_bytes)`.

        Returns:
            int. Rows.

        Raises:
            StoreError: a row is damaged, the disk or the server refuses, or another process has
                done the same to a table meanwhile.
        """

    def set_codebook(
        self, codebook: Codebook, progress: Callable[[int, int], None] | None = None
    ) -> int:
        """Let the images lie in the local pool by the words of another codebook, or a first one.

        Their signatures are made anew from the local features that the index holds; what is added
        from now on has its signatures by this codebook.

        Args:
            codebook: `Codebook`, of the index's `descriptor_dim`.
            progress: called with rows done and rows in all; or None.

        Returns:
            int. Images.

        Raises:
            StoreError: the index keeps no local pool, local features are damaged, or the disk or
                the server refuses; the index is as it was.
        """

    def compact(self) -> CompactReport:
        """Write the live rows anew, in their order, and drop the others.

        Needs room for a second copy of the live rows meanwhile. Snapshots of a folder that are
        open keep working; those of a table see errors, or fewer images.

        Raises:
            StoreError: a row is damaged (the old files stay), or the disk or server refuses.
        """

    def __enter__(self: Self) -> Self:
        """The writer itself."""

    def __exit__(self, *_: object) -> None:
        """Let others write."""


class Store(Facts, Protocol):
    """An index: made by `create`, opened by `open`, read through snapshots.

    Attributes:
        FEATURE_DTYPE: str. How features are stored where nothing else is asked for.
    """

    FEATURE_DTYPE: str

    @property
    def folder(self) -> pathlib.Path | str:
        """Where the index is: its folder, or its URL without the password."""

    @property
    def fingerprint(self) -> str:
        """str. Of the encoder that made the codes."""

    @property
    def format_version(self) -> int:
        """int. Of the folder or the tables."""

    @property
    def created(self) -> str:
        """str. When, in UTC, as ISO 8601."""

    @property
    def made(self) -> tuple[str, str, str]:
        """Three str, which tell an index from another that is made in its place."""

    @property
    def encoder_folder(self) -> pathlib.Path | None:
        """pathlib.Path or None. The bundle that the index carries.

        Raises:
            StoreError: a file of the bundle is not in the table.
        """

    def verify_encoder(self, *names: str) -> None:
        """Compare files of the encoder with their checksums, for who is about to open them.

        Args:
            *names: str, such as "encoder.onnx"; of files that there are not, nothing is said.

        Raises:
            StoreError: one differs; the message names it.
        """

    @classmethod
    def create(
        cls: type[Self],
        place: Any,
        /,
        *,
        num_bits: int,
        feature_dim: int,
        feature_dtype: str,
        fingerprint: str,
        encoder_files: Mapping[str, str | os.PathLike[str]] | None = None,
        extractor: str | None = None,
        descriptor_dim: int | None = None,
        regions_per_image: int = 0,
        exif: bool = False,
        ocr: str | None = None,
    ) -> Self:
        """Make an empty index; killed at any moment, there is a whole one or none.

        Args:
            place: a path where nothing is yet, or an empty folder; or the URL of a table.
            num_bits: int, 1 to 1024.
            feature_dim: int, 1 or more.
            feature_dtype: "float32" or, in a folder, "float16". How features are stored.
            fingerprint: str. Of the encoder.
            encoder_files: dict of a name relative to the encoder's folder (`/` between its
                parts) to the file to copy there.
            extractor: str or None. Of local features, where each image has such.
            descriptor_dim: int, 1 to 65536, with an extractor.
            regions_per_image: int, 0 to 64. The most regions of an image.
            exif: bool. Whether to keep when, where and by which camera a photo was taken.
            ocr: str or None. What reads the text in images.

        Returns:
            The opened `Store`.

        Raises:
            ArgumentError: an argument is outside what is listed above.
            StoreError: something is there already, or the disk or the server refuses.
        """

    @classmethod
    def open(cls: type[Self], place: Any, /) -> Self:
        """Open an index; also one that may only be read.

        Args:
            place: str or path-like; or the URL of a table.

        Returns:
            The opened `Store`.

        Raises:
            ArgumentError: the URL has another form.
            StoreError: there is none, it is damaged (the message names the file), or a newer
                version of HashNet made it.
            BackendError: the server does not answer.
        """

    @staticmethod
    def is_there(place: Any, /) -> bool:
        """Whether a place is taken: by an index, or in a folder by anything.

        Args:
            place: str or path-like; or the URL of a table.

        Returns:
            bool.
        """

    def snapshot(self) -> Snapshot:
        """The index as it is now.

        Raises:
            StoreError: it is damaged.
        """

    def reopened(self: Self) -> Self:
        """What is in this index's place now. For the errors, see `open`."""

    def version(self) -> tuple[Any, ...]:
        """What changes with every commit, and with a new index in this one's place.

        Raises:
            StoreError: the index is gone or damaged.
        """

    def writer(self) -> Writer:
        """The one writer of this index; a context manager.

        Raises:
            LockedError: another process or thread is writing in the folder; the message names
                it. A table has no lock: see that there is one writer.
            StoreError: the index is damaged or may not be written.
        """

    def num_bytes(self) -> int:
        """Bytes of the index on disk, the encoder's included; of a cluster, one server's share."""
