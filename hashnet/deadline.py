"""A time by which work has ended or is given up, asked for where it can stop: between its steps."""

import contextlib
import contextvars
import math
import time
from collections.abc import Iterator

from hashnet.errors import HashnetError

_until: contextvars.ContextVar[float] = contextvars.ContextVar("until", default=math.inf)


class LateError(HashnetError):
    """Work whose time is over; nobody waits for it any more."""


@contextlib.contextmanager
def until(moment: float) -> Iterator[None]:
    """Give the work inside so much time, in this thread and those it has work done by.

    Args:
        moment: float, by `time.monotonic`.

    Example:
        >>> with until(time.monotonic() - 1):
        ...     check()
        Traceback (most recent call last):
        ...
        hashnet.deadline.LateError: Work is given up when its time is over.
    """
    token = _until.set(min(moment, _until.get()))
    try:
        yield
    finally:
        _until.reset(token)


def check() -> None:
    """Go on, where there is time.

    Raises:
        LateError: it is over.
    """
    if time.monotonic() > _until.get():
        raise LateError("Work is given up when its time is over.")
