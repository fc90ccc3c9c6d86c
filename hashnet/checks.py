"""Checks of arguments that many functions share, each with its one message."""

import operator
from collections.abc import Iterable
from typing import Any

import numpy as np

from hashnet.errors import ArgumentError


def checked_integer(value: Any, least: int, name: str) -> int:
    """See that an argument is a whole number and large enough.

    Args:
        value: what the caller was given.
        least: int. The smallest that is right.
        name: str. What the caller calls it.

    Returns:
        int.

    Raises:
        ArgumentError: it is no integer (True is none either), or below `least`.

    Example:
        >>> checked_integer(3, 1, "k")
        3
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, (bool, np.bool_)) or number < least:
        raise ArgumentError(
            f"{name} is an integer, {least} or more.",
            f"{name}={value!r}",
            f"Give a whole number from {least} on.",
        )
    return number


def checked_ids(ids: Iterable[Any]) -> list[str]:
    """See that ids are strings.

    Args:
        ids: iterable, and no string itself.

    Returns:
        list of str.

    Raises:
        ArgumentError: one is none.

    Example:
        >>> checked_ids(iter(["cat", "dog"]))
        ['cat', 'dog']
    """
    listed = None if isinstance(ids, str | bytes) or not isinstance(ids, Iterable) else list(ids)
    if listed is None or not all(isinstance(id, str) for id in listed):
        raise ArgumentError("Ids are a collection of str.", repr(ids), "Give a list of them.")
    return listed


def described(value: object) -> str:
    """What a refusal says it received: dtype and shape of an array, or the type.

    Args:
        value: anything.

    Returns:
        str.

    Example:
        >>> described(np.zeros((2, 3), "uint8")), described("cat")
        ('uint8 array of shape (2, 3)', 'str')
    """
    if isinstance(value, np.ndarray):
        return f"{value.dtype} array of shape {value.shape}"
    return type(value).__name__
