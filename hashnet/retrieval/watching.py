"""Keeping an index in step with its folders while they change."""

import contextlib
import os
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any, Literal

from hashnet import extras, system
from hashnet.errors import HashnetError, LockedError
from hashnet.retrieval.index import Index
from hashnet.retrieval.ingest import UpdateReport
from hashnet.retrieval.missing import is_below

# A batch begins when nothing has changed for so long, and in a flood after so long.
QUIET_SECONDS = 0.5
FLOOD_SECONDS = 10.0
TICK_SECONDS = 1.0
# How often all is looked at though nothing was told: no system tells of what another machine does
# on a share, and of a flood it may leave some out.
LOOK_SECONDS = 600.0


def require_watchfiles() -> Any:
    """The module that tells of changes.

    Raises:
        HashnetError: it is not installed; the message gives a command that installs it.
    """
    return extras.load("watchfiles", "watch", "Folders are watched by watchfiles.")


def watch(
    index: Index,
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    prune: bool | Literal["all"] = True,
    **options: Any,
) -> Iterator[UpdateReport]:
    """Let an index follow files and folders as they change, until the iteration is ended.

    What the system tells of changes only says when to look: each time all is compared, as `update`
    does, so that a flood, a renamed folder or a disk that comes back loses nothing. While another
    process writes, it is tried again.

    Args:
        index: `Index`.
        paths: one or more files and folders.
        prune: bool or "all". As for `Index.update`; of what is seen to go while this watches, any
            number of images is dropped, if it is not False.
        **options: of `Index.update`.

    Yields:
        `UpdateReport` of each look that has changed the index, met a problem, or found other images
        away or prunable than the look before.

    Raises:
        HashnetError: watchfiles is not installed, or the system watches no more folders.
        StoreError: as for `Index.update`.

    Example:
        >>> index = Index.create("photos.index", bundle_folder)
        >>> reports = watch(index, ["cat.png", "dog.png"])  # doctest: +SKIP
        >>> next(reports).added  # doctest: +SKIP
        2
    """
    watchfiles = require_watchfiles()
    given = [paths] if isinstance(paths, str | os.PathLike) else paths
    roots = [os.path.abspath(os.fsdecode(path)) for path in given]
    own = os.path.abspath(os.fspath(index.store.folder))
    stays: object = {}, []
    looked: float | None = None  # the first look comes when changes are told, so that none is lost
    while True:
        before = _places(roots)
        with contextlib.closing(_told(watchfiles, roots)) as batches:
            for changes in batches:
                told = [one for one in changes if not is_below(one[1], own)]
                moved = _places(roots) != before
                due = looked is None or time.monotonic() - looked > LOOK_SECONDS
                if not (told or moved or due):
                    continue
                seen_to_go = not moved and any(
                    change == watchfiles.Change.deleted and is_below(path, root, itself=False)
                    for change, path in told
                    for root in roots
                )
                drop = "all" if prune and seen_to_go else prune
                try:
                    report = index.update(roots, prune=drop, **options)
                except LockedError:
                    looked = None
                    continue
                looked = time.monotonic()
                stayed, stays = stays, (report.away, report.prunable)
                done = (
                    report.added
                    or report.changed
                    or report.moved
                    or report.removed
                    or report.problems
                    or report.roots_moved
                )
                if done or stays != stayed:
                    yield report
                if moved:  # what is there now is not watched
                    break


def _told(watchfiles: Any, roots: Sequence[str]) -> Generator[set[tuple[Any, str]], None, None]:
    """What has changed below the roots, some things at a time, and every second nothing."""
    there = [root for root in roots if os.path.exists(root)]
    if not there:
        time.sleep(TICK_SECONDS)
        yield set()
        return
    try:
        yield from watchfiles.watch(
            *there,
            watch_filter=None,
            step=round(1000 * QUIET_SECONDS),
            debounce=round(1000 * FLOOD_SECONDS),
            rust_timeout=round(1000 * TICK_SECONDS),
            yield_on_timeout=True,
            ignore_permission_denied=True,
        )
    except FileNotFoundError:  # one has just gone
        time.sleep(TICK_SECONDS)
        yield set()
    except OSError as error:
        raise HashnetError(
            "A system watches only so many folders.",
            str(error),
            "On Linux, raise fs.inotify.max_user_watches.",
        ) from error


def _places(roots: Sequence[str]) -> tuple[list[tuple[int, int] | None], set[str]]:
    """Which file or folder each root is now, and what is mounted below it."""
    found: list[tuple[int, int] | None] = []
    for root in roots:
        try:
            status = os.stat(root)
            found.append((status.st_dev, status.st_ino))
        except OSError:
            found.append(None)
    return found, {
        place for place in system.mounts() if any(is_below(place, root) for root in roots)
    }
