"""What a walk through folders leaves out on purpose: thumbnails, recycle bins, what patterns name.

Patterns are written as in a `.gitignore`, and the last one that matches decides.
"""

import dataclasses
import fnmatch
import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NoReturn, Self

from hashnet import system
from hashnet.errors import ArgumentError

if TYPE_CHECKING:
    from pathspec.pattern import RegexPattern

    Patterns = Sequence[RegexPattern]

IGNORE_FILE = ".hashnetignore"
# Folders of other programs, whose pictures are thumbnails, previews or thrown away.
DEFAULT_EXCLUDES = (
    "@eaDir", "@__thumb", "#recycle", "@Recycle", "#snapshot", "@Recently-Snapshot",  # of a NAS
    "$RECYCLE.BIN", "RECYCLER", "System Volume Information",  # of Windows
    ".thumbnails", ".Trash", ".Trash-*", ".Trashes", "lost+found", "__MACOSX",  # of desktops
    "*.lrdata",  # previews of Lightroom
    ".stversions",  # of Syncthing
)  # fmt: skip
HIDDEN = "hidden folders"
# Of one reason so many files are counted and no more: a bin may hold a million.
MOST_COUNTED = 1000

_DEFAULTS = {name: re.compile(fnmatch.translate(name), re.IGNORECASE) for name in DEFAULT_EXCLUDES}


class Exclusion:
    """What one walk leaves out, and how much that was.

    Folders of thumbnails, previews and deleted files (`DEFAULT_EXCLUDES`), in any spelling of small
    and capital letters, and all names that begin with a dot; then what a `.hashnetignore` in a
    folder says of all below that folder; then patterns.

    Args:
        patterns: one or several str, as in a `.gitignore` in each folder that is walked through;
            one of them may also begin with the path of that folder.
        defaults: bool. Whether `DEFAULT_EXCLUDES` and names that begin with a dot are left out.

    Attributes:
        left_out: dict of reason (a name of `DEFAULT_EXCLUDES`, `".hashnetignore"`, a pattern) to
            the number of files that were left out for it, those in folders included, up to
            `MOST_COUNTED`; of `"hidden folders"` the number of these. A pattern that left nothing
            out is there with 0.

    Raises:
        ArgumentError: one of `patterns` is no pattern.

    Example:
        >>> Exclusion(["*.gif", "/raw/"]).left_out
        {'*.gif': 0, '/raw/': 0}
    """

    def __init__(self, patterns: str | Iterable[str] = (), *, defaults: bool = True) -> None:
        self.patterns = [patterns] if isinstance(patterns, str) else list(patterns)
        self.defaults = defaults
        self.left_out: dict[str, int] = dict.fromkeys(self.patterns, 0)
        for pattern in self.patterns:
            if not isinstance(pattern, str) or not pattern.strip():
                _refuse(pattern)
            try:
                _patterns([pattern])
            except ValueError:
                _refuse(pattern)

    def begin(self, root: str) -> "Scope":
        """What holds in a folder that is walked through, before its ignore file is read.

        Args:
            root: str, its path.

        Returns:
            `Scope`.
        """
        prefix = os.path.join(os.path.abspath(root), "")
        # A shell has made paths of some: `--exclude ~/Pictures/raw`. A # begins no comment here.
        lines = [
            "/" + pattern[len(prefix) :].replace(os.sep, "/")
            if pattern.startswith(prefix)
            else f"\\{pattern}"
            if pattern.startswith("#")
            else pattern
            for pattern in self.patterns
        ]
        return Scope(self, "", _patterns(lines))

    def count(self, reason: str, path: str, is_folder: bool) -> None:
        """Count something that was left out, but hidden files, which programs keep everywhere.

        Args:
            reason: str, from `Scope.reason`.
            path: str.
            is_folder: bool.
        """
        if reason == HIDDEN and not is_folder:
            return
        counted = self.left_out.setdefault(reason, 0)
        number = 1
        if is_folder and reason != HIDDEN:
            number = _files_below(path, MOST_COUNTED - counted)
        self.left_out[reason] = min(counted + number, MOST_COUNTED)


@dataclasses.dataclass(frozen=True, slots=True)
class Scope:
    """The rules that hold in one folder.

    Attributes:
        exclusion: `Exclusion`.
        path: str. The folder, below the one that the walk began in: "" or "a/b/".
        patterns: the exclusion's own patterns.
        ignored: of each ignore file up to here, how many characters of `path` its folder has, and
            its patterns.
    """

    exclusion: Exclusion
    path: str
    patterns: "Patterns"
    ignored: "tuple[tuple[int, Patterns], ...]" = ()

    def with_ignore_file(self, folder: str) -> Self:
        """The rules with those of the folder's own ignore file, if it has one.

        Args:
            folder: str, path of this folder.

        Returns:
            `Scope`.

        Raises:
            OSError: the file cannot be read.
            ValueError: a line is no pattern.
        """
        try:
            with open(os.path.join(folder, IGNORE_FILE), "rb") as file:
                lines = os.fsdecode(file.read()).removeprefix("\ufeff").splitlines()
        except FileNotFoundError:
            return self
        rules = (len(self.path), _patterns(lines))
        return dataclasses.replace(self, ignored=(*self.ignored, rules))

    def below(self, name: str) -> Self:
        """The rules that hold in a folder of this one, before its ignore file is read.

        Args:
            name: str.

        Returns:
            `Scope`.
        """
        return dataclasses.replace(self, path=f"{self.path}{name}/")

    def reason(self, name: str, is_folder: bool) -> str | None:
        """Why something in this folder is left out.

        Args:
            name: str.
            is_folder: bool.

        Returns:
            str, a key of `Exclusion.left_out`; None where it is not left out.
        """
        reason = _by_default(name, is_folder) if self.exclusion.defaults else None
        path = f"{self.path}{name}/" if is_folder else self.path + name
        for length, rules in self.ignored:
            if (place := _last_match(rules, path[length:])) is not None:
                reason = IGNORE_FILE if rules[place].include else None
        if (place := _last_match(self.patterns, path)) is not None:
            reason = self.exclusion.patterns[place] if self.patterns[place].include else None
        return reason

    def reason_below(self, path: str, folder: str | None = None) -> str | None:
        """Why a walk from this folder on does not come to a file below it.

        Args:
            path: str, of the file below this folder, with `/` between names.
            folder: str, path of this folder, whose ignore files are read, as are those of folders
                below it; None to read none.

        Returns:
            str, as `reason` gives it; None where it is not left out.

        Raises:
            OSError, ValueError: as for `with_ignore_file`.

        Example:
            >>> scope = Exclusion("raw/").begin("photos")
            >>> scope.reason_below("2019/raw/1.png"), scope.reason_below("2019/raw.png")
            ('raw/', None)
        """
        scope = self if folder is None else self.with_ignore_file(folder)
        name, separator, rest = path.partition("/")
        if (reason := scope.reason(name, bool(separator))) or not separator:
            return reason
        return scope.below(name).reason_below(rest, folder and os.path.join(folder, name))


def matcher(pattern: str) -> Callable[[str], bool]:
    """What tells whether a pattern names a path, or a folder that it lies in.

    Args:
        pattern: str, as in a `.gitignore`. With a `/` before its end it is a path, from the folder
            that this process works in if it is not absolute; unless it begins with `**/`.

    Returns:
        function of an absolute path, or of any other name, against which a path is held as it is
        written.

    Raises:
        ArgumentError: it is no pattern.

    Example:
        >>> is_gif = matcher("*.gif")
        >>> is_gif("/photos/2019/a.gif"), is_gif("/photos/a.gif.png")
        (True, False)
    """
    if not isinstance(pattern, str) or not pattern.strip():
        _refuse(pattern)
    line = of_paths = f"\\{pattern}" if pattern.startswith("#") else pattern
    if "/" in pattern.rstrip("/") and not pattern.startswith("**/"):
        slash = "/" if pattern.endswith("/") else ""
        of_paths = os.path.abspath(pattern).replace(os.sep, "/") + slash
    from pathspec import GitIgnoreSpec

    try:
        spec, paths = (GitIgnoreSpec.from_lines([one]) for one in (line, of_paths))
    except ValueError:
        _refuse(pattern)
    # Older versions of pathspec say None for no.
    return lambda name: bool((paths if os.path.isabs(name) else spec).match_file(name))


def _patterns(lines: Sequence[str]) -> "Patterns":
    if not lines:
        return ()
    # Loaded by whoever has patterns: it takes as long as half a search.
    from pathspec import GitIgnoreSpec

    patterns: Patterns = GitIgnoreSpec.from_lines(lines).patterns
    return patterns


def _last_match(patterns: "Patterns", path: str) -> int | None:
    """Place of the last pattern that names a path itself; None where none does.

    pathspec's patterns also match what lies below what they name. In a walk that would let a folder
    that is taken in again take in all below it, whatever other patterns say of that.
    """
    for place in range(len(patterns) - 1, -1, -1):
        pattern = patterns[place]
        if pattern.include is None or pattern.regex is None:  # a comment
            continue
        if (match := pattern.regex.match(path)) is not None:
            slash = match.groupdict().get("ps_d") and match.end("ps_d")
            if not slash or slash == len(path):
                return place
    return None


def _refuse(pattern: object) -> NoReturn:
    raise ArgumentError(
        "A pattern is written as in a .gitignore.",
        repr(pattern),
        "As in: raw/, *.gif, /2019/*.png.",
    ) from None


def _by_default(name: str, is_folder: bool) -> str | None:
    if is_folder:
        for reason, pattern in _DEFAULTS.items():
            if pattern.fullmatch(name):
                return reason
    return HIDDEN if name.startswith(".") else None


def _files_below(folder: str, most: int) -> int:
    """How many files lie in a folder and those below it, as far as it can be listed."""
    number, todo = 0, [] if os.path.islink(folder) else [folder]
    while todo and number < most:
        try:
            with os.scandir(todo.pop()) as scan:
                for entry in scan:
                    if entry.is_dir(follow_symlinks=False) and not system.is_linked_folder(entry):
                        todo.append(entry.path)
                    else:
                        number += 1
        except OSError:
            continue
    return number
