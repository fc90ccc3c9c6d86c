"""Finding the pictures in files and folders, in an order that is always the same."""

import dataclasses
import os
import stat
from collections.abc import Iterable

from hashnet import system
from hashnet.images.exclusion import IGNORE_FILE, Exclusion, Scope
from hashnet.images.sources import kind_of_file

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """A file that `find` found.

    Attributes:
        path: str. The root as it was given, joined with the names below it, kept as they are.
        size: int, bytes.
        mtime_ns: int, nanoseconds since 1970. Time of the last change.
        folder: str or None. The first folder below the root, which serves as class label; `None`
            for a file that lies directly in the root or was named itself.
    """

    path: str
    size: int
    mtime_ns: int
    folder: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """A path that `find` could not take, and why.

    Attributes:
        path: str, as it was given or found.
        reason: str, for a person.
    """

    path: str
    reason: str


def find(
    paths: Iterable[str | os.PathLike[str]],
    *,
    follow_links: bool = False,
    exclusion: Exclusion | None = None,
) -> tuple[list[Found], list[Problem]]:
    """List the pictures in files and folders, in an order that is always the same.

    A file that is named itself is taken whatever its name. In a folder the files come first, by
    name, then the folders, by name, each with all below it. What an `Exclusion` leaves out is
    passed over, as are files whose name does not end as a picture's does (`SUFFIXES`). Content is
    not looked at: `read` does that. A link to a file counts as a file under the link's name.
    Links to folders, pipes, devices, folders that may not be read, and paths that do not exist
    are problems. What is reached twice is listed the first time only.

    Args:
        paths: files and folders, each str or `os.PathLike`.
        follow_links: bool. Enter linked folders too; each folder is entered once, so loops end.
        exclusion: `Exclusion`, which then has counted what was left out; or None: what one without
            patterns leaves out.

    Returns:
        found: list of `Found`.
        problems: list of `Problem`.

    Example:
        >>> find(["no/such/folder"])
        ([], [Problem(path='no/such/folder', reason='No such file or directory')])
    """
    if isinstance(paths, (str, bytes, os.PathLike)):
        paths = [paths]
    walk = _Walk(follow_links, Exclusion() if exclusion is None else exclusion)
    for path in paths:
        walk.add(os.fsdecode(path))
    return walk.found, walk.problems


class _Walk:
    """What one call of `find` has seen so far."""

    def __init__(self, follow_links: bool, exclusion: Exclusion) -> None:
        self.follow_links, self.exclusion = follow_links, exclusion
        self.found: list[Found] = []
        self.problems: list[Problem] = []
        self.files_seen: set[str] = set()
        self.folders_seen: set[str] = set()

    def add(self, path: str) -> None:
        """Take a path that was named."""
        try:
            status = os.stat(path)
            if stat.S_ISDIR(status.st_mode):
                self._add_tree(path)
            else:
                self._add_file(path, os.path.realpath(os.path.dirname(path)), status, None)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            self._add_problem(path, error)

    def _add_tree(self, root: str) -> None:
        # A list and no recursion: folders may lie deeper than Python's stack.
        todo: list[tuple[str, str, str | None, Scope]] = [
            (root, os.path.realpath(root), None, self.exclusion.begin(root))
        ]
        while todo:
            path, home, label, scope = todo.pop()
            if home in self.folders_seen:
                continue
            self.folders_seen.add(home)
            try:
                with os.scandir(path) as scan:
                    entries = sorted(scan, key=lambda entry: entry.name)
            except OSError as error:
                self._add_problem(path, error)
                continue
            try:
                scope = scope.with_ignore_file(path)
            except (OSError, ValueError) as error:
                # What it would leave out may be what nobody is to see.
                self._add_problem(os.path.join(path, IGNORE_FILE), error)
                continue
            below = []
            for entry in entries:
                if self._is_left_out(entry, scope):
                    continue
                if self._is_folder(entry, home, label):
                    real = os.path.join(home, entry.name)
                    real = os.path.realpath(real) if system.is_linked_folder(entry) else real
                    below.append((entry.path, real, label or entry.name, scope.below(entry.name)))
            todo += reversed(below)

    def _is_left_out(self, entry: os.DirEntry[str], scope: Scope) -> bool:
        try:
            is_folder = entry.is_dir()
        except OSError:  # a link that leads in a circle
            is_folder = False
        reason = scope.reason(entry.name, is_folder)
        if reason is not None:
            self.exclusion.count(reason, entry.path, is_folder)
        return reason is not None

    def _is_folder(self, entry: os.DirEntry[str], home: str, label: str | None) -> bool:
        """Say whether the entry is a folder to enter; if it is a file, take it."""
        if entry.is_dir(follow_symlinks=False) and not system.is_linked_folder(entry):
            return True
        is_picture = entry.name.lower().endswith(SUFFIXES)
        if entry.is_file(follow_symlinks=False) and not is_picture:
            return False
        try:
            status = entry.stat()
        except OSError as error:
            if is_picture:
                self._add_problem(entry.path, error)
            return False
        if stat.S_ISDIR(status.st_mode):
            if not self.follow_links:
                self._add_problem(entry.path, "it is a link to a folder, which is not followed")
            return self.follow_links
        if is_picture or not stat.S_ISREG(status.st_mode):
            self._add_file(entry.path, home, status, label)
        return False

    def _add_file(self, path: str, home: str, status: os.stat_result, label: str | None) -> None:
        place = os.path.join(home, os.path.basename(path))
        if place in self.files_seen:
            return
        self.files_seen.add(place)
        if stat.S_ISREG(status.st_mode):
            self.found.append(Found(path, status.st_size, status.st_mtime_ns, label))
        else:
            self._add_problem(path, f"it is a {kind_of_file(status.st_mode)}")

    def _add_problem(self, path: str, reason: str | Exception) -> None:
        if isinstance(reason, Exception):
            reason = getattr(reason, "strerror", None) or str(reason)
        self.problems.append(Problem(path, reason))
