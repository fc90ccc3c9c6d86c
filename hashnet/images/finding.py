"""Finding the pictures in files and folders, in an order that is always the same."""

import collections
import dataclasses
import os
import stat
from collections.abc import Container, Iterable, Mapping
from typing import NamedTuple

from hashnet import system
from hashnet.images.exclusion import HIDDEN, IGNORE_FILE, Exclusion, Scope
from hashnet.images.formats import HEAD_BYTES, SUFFIXES, format_of
from hashnet.images.sources import kind_of_file

_KINDS_NAMED = 8
_MAX_SUFFIX = 12


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """A file that `find` found.

    Attributes:
        path: str. The root as it was given, joined with the names below it, kept as they are.
        size: int, bytes.
        mtime_ns: int, nanoseconds since 1970. Time of the last change; one that no 64 bits hold is
            the nearest that they do.
        folder: str or None. The first folder below the root, which serves as class label; `None`
            for a file that lies directly in the root or was named itself.
        file: (device, inode) of the file, whatever names it has; `None` where the system has none.
        is_link: bool. Whether the path is a symbolic link.
        ctime_ns: int or None, nanoseconds since 1970. When its content, name or rights last
            changed, by the system's clock; `None` where the system keeps no such time.
    """

    path: str
    size: int
    mtime_ns: int
    folder: str | None
    file: tuple[int, int] | None = None
    is_link: bool = False
    ctime_ns: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """A path that `find` could not take, and why.

    Attributes:
        path: str, as it was given or found.
        reason: str, for a person.
    """

    path: str
    reason: str


class Listing(NamedTuple):
    """What `find` found.

    Attributes:
        found: list of `Found`.
        problems: list of `Problem`.
        passed_over: dict of str to int. How many files in the folders are no pictures, by the
            suffix of their names in lower case, `"without suffix"` or `"hidden"`.
    """

    found: list[Found]
    problems: list[Problem]
    passed_over: dict[str, int]


def find(
    paths: Iterable[str | os.PathLike[str]],
    *,
    follow_links: bool = False,
    exclusion: Exclusion | None = None,
) -> Listing:
    """List the pictures in files and folders, in an order that is always the same.

    A file that is named itself is taken whatever it is. In a folder the files come first, by
    name, then the folders, by name, each with all below it. A file in it is a picture if its name
    ends as a picture's does (`SUFFIXES`), or if its first bytes are a picture's, whatever its
    name; whether it can be read, `read` finds out. What an `Exclusion` leaves out is not listed.
    Files that are no pictures, and hidden ones, are counted. A link to a file counts as a file
    under the link's name. Links to folders, pipes, devices, what may not be read, and paths that
    do not exist are problems. What is reached twice is listed the first time only.

    Args:
        paths: files and folders, each str or `os.PathLike`.
        follow_links: bool. Enter linked folders too; each folder is entered once, so loops end.
        exclusion: `Exclusion`, which then has counted what was left out; or None: what one without
            patterns leaves out.

    Returns:
        A `Listing`.

    Example:
        >>> find(["no/such/folder"]).problems
        [Problem(path='no/such/folder', reason='No such file or directory')]
    """
    if isinstance(paths, (str, bytes, os.PathLike)):
        paths = [paths]
    walk = _Walk(follow_links, Exclusion() if exclusion is None else exclusion)
    for path in paths:
        walk.add(os.fsdecode(path))
    return Listing(walk.found, walk.problems, dict(walk.passed_over))


def passed_over_in_words(passed_over: Mapping[str, int]) -> str:
    """What `find` passed over, on one line, the most frequent kinds first.

    Args:
        passed_over: dict of str to int, as `Listing` has it.

    Returns:
        str, empty where nothing was.

    Example:
        >>> passed_over_in_words({".pdf": 3, ".mov": 1200})
        'passed over: 1,200 .mov, 3 .pdf'
    """
    if not passed_over:
        return ""
    kinds = sorted(passed_over.items(), key=lambda kind: (-kind[1], kind[0]))
    parts = [f"{count:,} {suffix}" for suffix, count in kinds[:_KINDS_NAMED]]
    if rest := sum(count for _, count in kinds[_KINDS_NAMED:]):
        parts.append(f"{rest:,} of other kinds")
    return f"passed over: {', '.join(parts)}"


def in_64_bits(mtime_ns: int) -> int:
    """A time that 64 bits hold: shares and damaged disks give files of the year 30828.

    Args:
        mtime_ns: int, nanoseconds since 1970.

    Returns:
        int, the nearest from 1677 to 2262.

    Example:
        >>> in_64_bits(10**30) == 2**63 - 1, in_64_bits(-(10**30)) == 1 - 2**63, in_64_bits(7)
        (True, True, 7)
    """
    # The lowest number of all stands for a time that is not known.
    return max(1 - 2**63, min(mtime_ns, 2**63 - 1))


def distinct(found: Iterable[Found], known: Container[str] = ()) -> list[Found]:
    """Of files that were found under several names, by hard or symbolic links, one name each.

    A name that is known comes first, then one that is no link, then the first.

    Args:
        found: `Found` of one call of `find`.
        known: absolute paths.

    Returns:
        list of `Found`, each in the place of the first of its names.

    Example:
        >>> names = [Found("a.jpg", 9, 0, None, (1, 7), True), Found("b.jpg", 9, 0, None, (1, 7))]
        >>> [one.path for one in distinct(names)]
        ['b.jpg']
    """
    names: dict[object, list[Found]] = {}
    for one in found:
        # Some file systems make inodes up, one for several files.
        key = one.path if one.file is None else (one.file, one.size, one.mtime_ns)
        names.setdefault(key, []).append(one)
    return [
        same[0]
        if len(same) == 1
        else min(same, key=lambda one: (os.path.abspath(one.path) not in known, one.is_link))
        for same in names.values()
    ]


class _Walk:
    """What one call of `find` has seen so far."""

    def __init__(self, follow_links: bool, exclusion: Exclusion) -> None:
        self.follow_links, self.exclusion = follow_links, exclusion
        self.found: list[Found] = []
        self.problems: list[Problem] = []
        self.passed_over: collections.Counter[str] = collections.Counter()
        self.files_seen: set[str] = set()
        self.folders_seen: set[str] = set()

    def add(self, path: str) -> None:
        """Take a path that was named."""
        try:
            status = os.stat(path)
            if stat.S_ISDIR(status.st_mode):
                self._add_tree(path)
            else:
                home = os.path.realpath(os.path.dirname(path))
                self._add_file(path, home, status, None, os.path.islink(path))
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
                if entry.name == IGNORE_FILE or self._is_left_out(entry, home, scope):
                    continue
                if self._is_folder(entry, home, label):
                    real = os.path.join(home, entry.name)
                    real = os.path.realpath(real) if system.is_linked_folder(entry) else real
                    below.append((entry.path, real, label or entry.name, scope.below(entry.name)))
            todo += reversed(below)

    def _is_left_out(self, entry: os.DirEntry[str], home: str, scope: Scope) -> bool:
        try:
            is_folder = entry.is_dir()
        except OSError:  # a link that leads in a circle
            is_folder = False
        reason = scope.reason(entry.name, is_folder)
        if reason == HIDDEN and not is_folder:
            self._pass_over(entry, home, "hidden")
        elif reason is not None:
            self.exclusion.count(reason, entry.path, is_folder)
        return reason is not None

    def _is_folder(self, entry: os.DirEntry[str], home: str, label: str | None) -> bool:
        """Say whether the entry is a folder to enter; if it is a file, take it."""
        if entry.is_dir(follow_symlinks=False) and not system.is_linked_folder(entry):
            return True
        suffix = os.path.splitext(entry.name)[1].lower()
        try:
            status = entry.stat()
        except OSError as error:
            if suffix in SUFFIXES or not entry.is_symlink():
                self._add_problem(entry.path, error)
            else:
                self._pass_over(entry, home, suffix)
            return False
        if stat.S_ISDIR(status.st_mode):
            if not self.follow_links:
                self._add_problem(entry.path, "it is a link to a folder, which is not followed")
            return self.follow_links
        try:
            if suffix in SUFFIXES or not stat.S_ISREG(status.st_mode) or _is_picture(entry.path):
                self._add_file(entry.path, home, status, label, entry.is_symlink())
            else:
                self._pass_over(entry, home, suffix)
        except OSError as error:
            self._add_problem(entry.path, error)
        return False

    def _pass_over(self, entry: os.DirEntry[str], home: str, suffix: str) -> None:
        """Count a file that is no picture: once, however often it is reached."""
        place = os.path.join(home, entry.name)
        if place not in self.files_seen:
            self.files_seen.add(place)
            said = suffix.isprintable() and len(suffix) <= _MAX_SUFFIX
            self.passed_over[(suffix if said else "of other names") or "without suffix"] += 1

    def _add_file(
        self, path: str, home: str, status: os.stat_result, label: str | None, is_link: bool
    ) -> None:
        place = os.path.join(home, os.path.basename(path))
        if place in self.files_seen:
            return
        self.files_seen.add(place)
        if stat.S_ISREG(status.st_mode):
            file = (status.st_dev, status.st_ino) if status.st_ino else None
            mtime_ns = in_64_bits(status.st_mtime_ns)
            ctime_ns = in_64_bits(status.st_ctime_ns) if status.st_ctime_ns else None
            self.found.append(Found(path, status.st_size, mtime_ns, label, file, is_link, ctime_ns))
        else:
            self._add_problem(path, f"it is a {kind_of_file(status.st_mode)}")

    def _add_problem(self, path: str, reason: str | Exception) -> None:
        if isinstance(reason, Exception):
            reason = getattr(reason, "strerror", None) or str(reason)
        self.problems.append(Problem(path, reason))


def _is_picture(path: str) -> bool:
    """Whether the first bytes of a file are a picture's."""
    descriptor = system.open_without_waiting(path)
    try:
        return format_of(os.read(descriptor, HEAD_BYTES)) is not None
    finally:
        os.close(descriptor)
