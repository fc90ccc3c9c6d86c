"""When to load compiled code, and how to run it on several threads.

Importing Numba and loading compiled loops takes some tenths of a second: longer than NumPy needs
for one search of a million codes. So searches begin with NumPy, and the kernels are loaded once
the work done that way has cost about as much as loading them. Answers are the same either way.
"""

import concurrent.futures
import functools
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar

import threadpoolctl

T = TypeVar("T")

# NumPy moves about this many bytes in the time it takes to load the kernels (0.35 s).
LOADING_BYTES = 1 << 29

_numpy_bytes = 0


def kernels(num_bytes: int) -> ModuleType | None:
    """Return the module of compiled kernels, or None while NumPy is the quicker way.

    Args:
        num_bytes: int. How many bytes of codes or features the task at hand reads.

    Returns:
        The module `hashnet.retrieval.search.kernels`, or None.
    """
    global _numpy_bytes
    _numpy_bytes += num_bytes
    return load() if _numpy_bytes >= LOADING_BYTES else None


@functools.cache
def load() -> ModuleType:
    """Load the compiled kernels now, as a server does before its first query."""
    global _numpy_bytes
    _numpy_bytes = LOADING_BYTES
    import hashnet.retrieval.search.kernels

    return hashnet.retrieval.search.kernels


def in_parts(function: Callable[[int, int], T], size: int, num_threads: int, least: int) -> list[T]:
    """Call `function(first, last)` over consecutive parts of `range(size)`; answers in order.

    Args:
        function: a callable that releases the GIL.
        size: int. How many items there are.
        num_threads: int. The most parts to run at one time.
        least: int. The fewest items worth a thread of their own.

    Returns:
        A list of what `function` returned, in the order of the parts.
    """
    num_parts = min(num_threads, size // least)
    if num_parts <= 1:
        return [function(0, size)]
    borders = [size * part // num_parts for part in range(num_parts + 1)]
    others = [
        _threads().submit(function, first, last)
        for first, last in zip(borders[1:-1], borders[2:], strict=True)
    ]
    return [function(borders[0], borders[1]), *(other.result() for other in others)]


def one_blas_thread() -> Any:
    """Return a context in which each matrix product stays on the thread that asks for it.

    Sums of another order are other numbers: so no answer depends on the number of threads.
    """
    return _libraries().limit(limits=1, user_api="blas")


@functools.cache
def _libraries() -> Any:
    """What computes products here; to look for it takes as long as to compare an image."""
    return threadpoolctl.ThreadpoolController()


@functools.cache
def _threads() -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="retrieval")


# A forked child inherits the executor but none of its threads, and would wait for ever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.cache_clear)
