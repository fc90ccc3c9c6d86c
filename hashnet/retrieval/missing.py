"""What an index holds and a walk has not found: gone for good, away for the moment, or left out.

A disk that is not mounted looks as an empty folder does, or as one that is gone. What cannot be
told from that is away: it may come back, and nothing of it is dropped. Nothing is remembered for
it; what the system says now decides.
"""

import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from hashnet import images, system


@dataclass(frozen=True)
class Missing:
    """Files below the paths of a walk that the walk has not found.

    Attributes:
        prunable: list of str. Paths of those that are gone from where their folders are, are left
            out now, or were found under another name.
        away: dict of folder to number of images. The folder cannot be reached or listed, or is
            empty but for empty folders, or its disk is not mounted.
    """

    prunable: list[str] = field(default_factory=list)
    away: dict[str, int] = field(default_factory=dict)


class Judge:
    """Tells what is gone from what is away, and asks about each folder once."""

    def __init__(self) -> None:
        self._folders: dict[str, str | None] = {}

    def is_gone(self, path: str) -> bool:
        """Whether a file is gone for good from where it was.

        Args:
            path: str, absolute.

        Returns:
            bool; False where something is at its place, or it may come back.
        """
        try:
            os.lstat(path)
        except (OSError, ValueError) as error:
            return self.away(path, error) is None
        return False

    def away(self, path: str, error: Exception) -> str | None:
        """The folder that is away, of a file that is not there; None where the file is gone.

        Args:
            path: str, absolute.
            error: what the system said of it.

        Returns:
            str or None.
        """
        folder = os.path.dirname(path)
        if folder not in self._folders:
            self._folders[folder] = _away(folder)
        place = self._folders[folder]
        if place is None and not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            return folder
        return place


def missing(
    paths: Iterable[str],
    places: Sequence[str],
    found: Mapping[tuple[int, int], str],
    exclusion: images.Exclusion,
    judge: Judge,
) -> Missing:
    """Judge what a walk has not found.

    Args:
        paths: of the files that it has not found, absolute.
        places: the files and folders that were walked through.
        found: dict of device and inode of each file that was found to its path.
        exclusion: what the walk has left out.
        judge: `Judge`.

    Returns:
        `Missing`. Files that are there, but were not found for another reason, are in none of it.

    Example:
        >>> photos = os.path.abspath("photos of last year")
        >>> cat = os.path.join(photos, "cat.png")
        >>> gone = missing([cat], [photos], {}, images.Exclusion(), Judge())
        >>> len(gone.prunable), gone.away
        (1, {})
    """
    roots = [os.path.abspath(place) for place in places]
    below = [(root, os.path.join(root, ""), exclusion.begin(root)) for root in roots]
    prunable: list[str] = []
    away: dict[str, int] = {}
    for path in paths:
        holding = [(root, scope) for root, prefix, scope in below if path.startswith(prefix)]
        if not holding and path not in roots:
            continue
        try:
            status = os.lstat(path)
        except (OSError, ValueError) as error:
            folder = judge.away(path, error)
            if folder is None:
                prunable.append(path)
            else:
                away[folder] = away.get(folder, 0) + 1
            continue
        if stat.S_ISLNK(status.st_mode):
            try:
                status = os.stat(path)
            except OSError:  # the walk has named it
                continue
        twice = found.get((status.st_dev, status.st_ino), path) != path
        if twice or stat.S_ISDIR(status.st_mode) or _is_left_out(path, holding):
            prunable.append(path)
    return Missing(prunable, away)


def is_below(path: str, folder: str, *, itself: bool = True) -> bool:
    """Whether a path lies in a folder, or in one below it.

    Args:
        path, folder: str, absolute.
        itself: bool. Whether the folder's own path counts.

    Returns:
        bool.

    Example:
        >>> is_below("/photos/2026/a.jpg", "/photos"), is_below("/photos of cats", "/photos")
        (True, False)
    """
    return path.startswith(os.path.join(folder, "")) or (itself and path == folder)


def _is_left_out(path: str, holding: Sequence[tuple[str, images.Scope]]) -> bool:
    """Whether no walk from any of these folders comes to a file, for a reason."""
    for root, scope in holding:
        below = path[len(os.path.join(root, "")) :].replace(os.sep, "/")
        try:
            reason = scope.reason_below(below, root)
        except (OSError, ValueError):
            return False
        # A hidden file is in the index because it was named itself.
        if reason in (None, images.HIDDEN):
            return False
    return bool(holding)


def _away(folder: str) -> str | None:
    """The folder that is away, of one that a file is missing from; None where the file is gone."""
    if place := system.unmounted(folder):
        return place
    while True:
        try:
            os.lstat(folder)  # a link that leads nowhere is there itself
            if not stat.S_ISDIR(os.stat(folder).st_mode):
                return None
            return folder if _is_empty(folder) else None
        except (FileNotFoundError, NotADirectoryError):
            if os.path.islink(folder) or os.path.dirname(folder) == folder:
                return folder
            folder = os.path.dirname(folder)
        except (OSError, ValueError):
            return folder


def _is_empty(folder: str) -> bool:
    """Whether a folder holds nothing but hidden files and folders like itself."""
    todo = [folder]
    while todo:
        with os.scandir(todo.pop()) as scan:
            for entry in scan:
                if entry.name.startswith("."):
                    continue
                if not entry.is_dir(follow_symlinks=False) or system.is_linked_folder(entry):
                    return False
                todo.append(entry.path)
    return True
