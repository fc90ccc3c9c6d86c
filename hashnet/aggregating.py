"""The local features of an index as vectors, for an index of these: `hashnet aggregate`."""

import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from hashnet import files, images
from hashnet.errors import ArgumentError, ImageError, StoreError
from hashnet.local import extractors
from hashnet.local.aggregation import Aggregation
from hashnet.retrieval.index import Index
from hashnet.retrieval.store.items import Item
from hashnet.retrieval.store.protocol import Snapshot
from hashnet.system import cores

StrPath = str | os.PathLike[str]
Tell = Callable[[str, int, int], object]

SUFFIX, CODEBOOK = ".npy", ".codebook.npz"
READING, FITTING = "reading local features", "fitting the codebook"
_AT_ONCE = 256  # images whose local features are in memory
_FITTED_TO = 4000  # images that a codebook is fitted to, at most


def aggregate(
    index: Index,
    out: StrPath,
    kind: str = "vlad",
    *,
    num_words: int | None = None,
    codebook: StrPath | None = None,
    queries: Iterable[StrPath] | None = None,
    seed: int = 0,
    progress: Tell | None = None,
) -> tuple[int, list[images.Problem]]:
    """Write a vector of the local features of each image, for `hashnet index --from-vectors`.

    A codebook is fitted to what the index holds, and written beside the vectors; or the one that is
    given is used, as queries need it.

    Args:
        index: an `Index` with local features.
        out: path of an `.npy`. Beside it come `.ids.txt`, `.labels.txt`, `.paths.txt` and, where a
            codebook was fitted, `.codebook.npz`, each in place of the one that may be there.
        kind: str, one of `aggregation.KINDS`.
        num_words: int or None, as for `Aggregation.fit`.
        codebook: path of a `.codebook.npz`, whose kind and words then count; or None.
        queries: paths of photos and folders, whose vectors are written in place of the index's,
            their paths for ids; or None.
        seed: int. Of the fit.
        progress: called with what is being done, how much is done, and how much there is.

    Returns:
        How many vectors were written, and a list of `Problem`: images that have none.

    Raises:
        ArgumentError: `out` has another ending, queries come without a codebook, the local
            features are of several extractors, there is no vector at all, or as for
            `Aggregation.fit`.
        StoreError: the index has no local features, or the codebook is damaged.

    Example:
        >>> index = Index.create("local.index", bundle_folder, local="sift")
        >>> _ = index.add(["cat.png", "dog.png"], ids=["cat", "dog"])
        >>> aggregate(index, "vectors.npy", num_words=8)
        (2, [])
    """
    target = pathlib.Path(out)
    if target.suffix != SUFFIX:
        raise ArgumentError(f"The name of a file of vectors ends in {SUFFIX}.", str(target))
    if queries is not None and codebook is None:
        raise ArgumentError(
            "Queries are described by the codebook of what they are to find.",
            "queries without a codebook",
            f"Give the {CODEBOOK} that was written beside the index's vectors.",
        )
    if index.store.extractor is None:
        raise StoreError(
            "Vectors are aggregated from the local features that an index holds.",
            f"an index without any: {index.store.folder}",
            "Make an index with `hashnet index --local sift`.",
        )
    if len(extractors.names_of(index.store.extractor)) > 1:
        raise ArgumentError(
            "Vectors are aggregated from the local features of one extractor.",
            f"an index of several: {index.store.extractor}",
            "Make an index with one of them.",
        )
    tell = progress or (lambda stage, done, total: None)
    with index.store.snapshot() as snapshot:
        rows = snapshot.rows_beginning_with("")
        if codebook is not None:
            made = Aggregation.load(codebook)
        else:
            made = _fitted(snapshot, rows, kind, num_words, seed, tell)
        if queries is not None:
            listed, problems = _of_queries(index, queries)
            described = iter(listed)
        else:
            described, problems = _of_index(snapshot, rows, tell), []
        items, vectors = [], []
        for item, descriptors in described:
            vector = made.vector(descriptors)
            if not vector.any():
                problems.append(images.Problem(item.id, "no local feature that tells it apart"))
            elif any("\n" in text for text in (item.id, item.label or "", item.path or "")):
                problems.append(images.Problem(item.id, "a name of several lines"))
            else:
                items.append(item)
                vectors.append(vector.astype(np.float16))
    if not vectors:
        reason = f"; {problems[0].path}: {problems[0].reason}" if problems else ""
        raise ArgumentError("Vectors are made of images that have local features.", f"none{reason}")
    _write(target, items, np.stack(vectors))
    if codebook is None:
        made.save(target.with_suffix(CODEBOOK))
    return len(vectors), problems


def _fitted(
    snapshot: Snapshot, rows: np.ndarray, kind: str, num_words: int | None, seed: int, tell: Tell
) -> Aggregation:
    chosen = rows
    if len(rows) > _FITTED_TO:
        chosen = np.sort(np.random.default_rng(seed).choice(rows, _FITTED_TO, replace=False))
    descriptors = []
    for start in range(0, len(chosen), _AT_ONCE):
        part = snapshot.local_features(chosen[start : start + _AT_ONCE])
        descriptors += [np.asarray(one.descriptors, np.float16) for one in part]
        tell(READING, len(descriptors), len(chosen))
    tell(FITTING, 0, 0)
    return Aggregation.fit(kind, descriptors, num_words=num_words, seed=seed, num_threads=cores())


def _of_index(
    snapshot: Snapshot, rows: np.ndarray, tell: Tell
) -> Iterator[tuple[Item, np.ndarray]]:
    for start in range(0, len(rows), _AT_ONCE):
        part = rows[start : start + _AT_ONCE]
        found = snapshot.local_features(part)
        yield from zip(snapshot.items(part), (one.descriptors for one in found), strict=True)
        tell("writing vectors", start + len(part), len(rows))


def _of_queries(
    index: Index, queries: Iterable[StrPath]
) -> tuple[list[tuple[Item, np.ndarray]], list[images.Problem]]:
    listed, problems, _ = images.find(queries)
    described, extractor = [], index.extractor
    for file in listed:
        try:
            descriptors = extractor.extract(images.read(file.path)).descriptors
        except ImageError as error:
            problems.append(images.Problem(file.path, str(error)))
            continue
        described.append((Item(file.path, file.path, file.folder), descriptors))
    return described, problems


def _write(target: pathlib.Path, items: Sequence[Item], vectors: np.ndarray) -> None:
    """Texts first: without them, or beside others, an array says that lines do not fit."""
    texts = {
        "ids": [item.id for item in items],
        "labels": [item.label or "" for item in items],
        "paths": [item.path or "" for item in items],
    }
    for name, lines in texts.items():
        with files.whole_file(target.with_suffix(f".{name}.txt")) as file:
            file.write(("\n".join(lines) + "\n").encode("utf-8"))
    with files.whole_file(target) as file:
        np.save(file, vectors)
