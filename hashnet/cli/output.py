"""What a command writes for people: errors, what was skipped, progress; and the exit statuses."""

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Self

from hashnet.errors import HashnetError

if TYPE_CHECKING:
    from hashnet.images import Problem

DONE, FAILED, WRONG_ARGUMENTS, SKIPPED_SOME = 0, 1, 2, 3


def fail(error: HashnetError | str, status: int) -> int:
    """Write why a command failed to stderr; returns `status`."""
    print(f"hashnet: {error}", file=sys.stderr)
    return status


def note(text: str) -> None:
    """Write what is not the answer to stderr."""
    print(text, file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """`text` on one line: a file's name may hold anything, escape sequences included."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def name_problems(problems: "Iterable[Problem]") -> None:
    """Write to stderr what was skipped, and why."""
    for problem in problems:
        note(f"skipped {printable(problem.path)}: {printable(problem.reason)}")


class Progress:
    """A progress bar on stderr, where a person is looking; called with done and total.

    Args:
        text: str. What is being done.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._bar: Any = None

    def __enter__(self) -> Self:
        return self

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` images are done."""
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(
                total=total, desc=self._text, unit="images", file=sys.stderr, disable=None
            )
        self._bar.update(done - self._bar.n)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


class Stages:
    """One progress bar after another; called with stage, done and total."""

    def __init__(self) -> None:
        self._stage = ""
        self._bar: Progress | None = None

    def __enter__(self) -> Self:
        return self

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that `done` of `total` images of a stage are done."""
        if self._bar is None or stage != self._stage:
            self.__exit__()
            self._stage, self._bar = stage, Progress(stage)
        self._bar(done, total)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.__exit__()
