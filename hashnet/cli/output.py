"""What a command writes for people: errors, notes, what was skipped, progress; the exit statuses.

Answers are printed to stdout by the verbs themselves. All else goes to stderr through here: `-q`
leaves errors and what was skipped, `-v` adds details.
"""

import io
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self

from hashnet.errors import HashnetError
from hashnet.escapes import printable

if TYPE_CHECKING:
    from hashnet.images import Problem

DONE, FAILED, WRONG_ARGUMENTS, SKIPPED_SOME = 0, 1, 2, 3
QUIET, NORMAL, VERBOSE = -1, 0, 1
# Of more skipped inputs with similar reasons, one is named and the others are counted.
MOST_NAMED = 5
_IN_STEPS = {"fitting codes"}  # stages that count something else than images

_verbosity = NORMAL


def set_verbosity(verbosity: int) -> None:
    """Say how much this process writes to stderr from now on.

    Args:
        verbosity: `QUIET`, `NORMAL` or `VERBOSE`.
    """
    global _verbosity
    _verbosity = verbosity


def escape_what_cannot_be_written() -> None:
    """Let names of any language be printed on a terminal or pipe that has not their characters."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def quiet() -> bool:
    """Whether only errors are wanted."""
    return _verbosity == QUIET


def fail(error: HashnetError | str, status: int) -> int:
    """Write why a command failed to stderr; returns `status`."""
    print(f"hashnet: {error}", file=sys.stderr)
    return status


def note(text: str) -> None:
    """Write to stderr, on a line of its own, what happens; nothing with `-q`."""
    if _verbosity > QUIET:
        print(text, file=sys.stderr, flush=True)


def complain(text: str) -> None:
    """Write to stderr, with `-q` too, what was asked for and not done."""
    print(text, file=sys.stderr, flush=True)


def detail(text: str) -> None:
    """Write to stderr what only `-v` asks for."""
    if _verbosity >= VERBOSE:
        print(text, file=sys.stderr, flush=True)


def count(number: int, what: str) -> str:
    """A number of things, as in `1 image` and `2,000 images`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def name_problems(problems: "Iterable[Problem]") -> None:
    """Write to stderr what was skipped, and why.

    Where more than `MOST_NAMED` have similar reasons, the first is named and the others are
    counted, unless `-v` asks for all.
    """
    alike: dict[str, list[Problem]] = {}
    for problem in problems:
        alike.setdefault(_kind(problem), []).append(problem)
    for same in alike.values():
        every = len(same) <= MOST_NAMED or _verbosity >= VERBOSE
        for problem in same if every else same[:1]:
            line = f"skipped {printable(problem.path)}: {printable(problem.reason)}"
            print(line, file=sys.stderr)
        if not every:
            more = f"{len(same) - 1:,} more for similar reasons (-v names each)"
            print(f"skipped {more}", file=sys.stderr)


class Measured(Protocol):
    """What a command has measured, as an evaluation or a comparison."""

    @property
    def problems(self) -> "Sequence[Problem]":
        """Inputs that could not be used."""

    def to_dict(self) -> dict[str, Any]:
        """The figures, as JSON can hold them."""


def tell(
    measured: Measured,
    printed: Callable[[dict[str, Any]], None],
    *,
    as_json: bool,
    report: str | None,
) -> int:
    """Print what was measured, name what was skipped, and say where the report is.

    Args:
        measured: `Measured`.
        printed: function of its figures, which prints them for people.
        as_json: bool. Print them as JSON instead.
        report: str or None, the folder of a report that was written.

    Returns:
        int, the exit status.
    """
    import json  # which `hashnet --help` does without

    name_problems(measured.problems)
    if report:
        note(f"wrote {report}")
    if as_json:
        print(json.dumps(measured.to_dict()))
    else:
        printed(measured.to_dict())
    return SKIPPED_SOME if measured.problems else DONE


def name_left_out(left_out: Mapping[str, int]) -> None:
    """Write to stderr, in one line, what was left out on purpose, and how much; nothing with `-q`.

    Args:
        left_out: dict of reason to number, as `images.Exclusion.left_out`.
    """
    from hashnet.images import exclusion

    parts = []
    for reason, number in left_out.items():
        most = number >= exclusion.MOST_COUNTED
        counted = f"{number:,} or more" if most else f"{number:,}"
        joint = (
            " "
            if reason == exclusion.HIDDEN
            else " in "
            if reason in exclusion.DEFAULT_EXCLUDES
            else " by "
        )
        parts.append(counted + joint + printable(reason))
    if parts:
        note(f"left out: {', '.join(parts)}")


def say_passed_over(passed_over: Mapping[str, int]) -> None:
    """Write to stderr, on one line, how many files in the folders are no pictures."""
    from hashnet.images import passed_over_in_words

    if passed_over:
        note(printable(passed_over_in_words(passed_over)))


def _kind(problem: "Problem") -> str:
    """What similar reasons have in common: the words that are no names and no numbers."""
    reason = re.sub(r"'[^']*'|\"[^\"]*\"", "", problem.reason.replace(problem.path, ""))
    return " ".join(word for word in reason.split() if word.strip(".,;()").isalpha())


class Progress:
    """Progress on stderr, where a person is looking: a bar for each stage.

    Called with the stage, how many images (or steps) are done, and how many there are; 0 of 0 in a
    stage that is not counted, of which no line is left. A bar ends when all are done, and not when
    the next stage begins: what comes between is no part of it. With `-v`, each stage says how long
    it took.
    """

    def __init__(self) -> None:
        self._stage = ""
        self._bar: Any = None
        self._done = 0
        self._began: float | None = None  # None between stages

    def __enter__(self) -> Self:
        return self

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that `done` of `total` images, or steps, of a stage are done."""
        if stage != self._stage:
            self.close()
            self._stage, self._began = stage, time.perf_counter()
            self._begin(total)
        self._done = done
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
        if 0 < total <= done:
            self.close()

    def _begin(self, total: int) -> None:
        if quiet() or not sys.stderr.isatty():
            return
        from tqdm import tqdm

        if total:
            unit = " steps" if self._stage in _IN_STEPS else " images"
            self._bar = tqdm(total=total, desc=self._stage, unit=unit, file=sys.stderr)
        else:
            shown = f"{self._stage} ..."
            self._bar = tqdm(bar_format=shown, leave=False, file=sys.stderr)

    def close(self) -> None:
        """End the stage."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if self._began is not None:
            unit = "steps" if self._stage in _IN_STEPS else "images"
            counted = f"{self._done:,} {unit} in " if self._done else ""
            detail(f"{self._stage}: {counted}{time.perf_counter() - self._began:.2f} seconds")
            self._began = None

    def __exit__(self, *_: object) -> None:
        self.close()
