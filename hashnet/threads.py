"""Work spread over the cores without another answer."""

import concurrent.futures
import contextvars
import functools
import itertools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import threadpoolctl

from hashnet import system

S = TypeVar("S")
T = TypeVar("T")


def in_parts(function: Callable[[int, int], T], size: int, num_threads: int, least: int) -> list[T]:
    """Call `function(first, last)` over consecutive parts of `range(size)`; answers in order.

    Args:
        function: a callable that releases the GIL.
        size: int. How many items there are.
        num_threads: int. The most parts to run at one time.
        least: int. The fewest items worth a thread of their own.

    Returns:
        A list of what `function` returned, in the order of the parts.

    Example:
        >>> in_parts(lambda first, last: (first, last), 10, num_threads=2, least=3)
        [(0, 5), (5, 10)]
    """
    num_parts = min(num_threads, size // least)
    if num_parts <= 1:
        return [function(0, size)]
    borders = [size * part // num_parts for part in range(num_parts + 1)]
    (first, last), *other_parts = itertools.pairwise(borders)
    others = [_pool().submit(function, *part) for part in other_parts]
    return [function(first, last), *(other.result() for other in others)]


def mapped(function: Callable[[S], T], items: Iterable[S], num_threads: int) -> list[T]:
    """`[function(item) for item in items]`, on several threads.

    Args:
        function: a callable that releases the GIL.
        items: iterable.
        num_threads: int, 1 or more.

    Returns:
        list, in the order of `items`.

    Example:
        >>> mapped(abs, [-1, 2], num_threads=2)
        [1, 2]
    """
    if num_threads == 1:
        return [function(item) for item in items]
    context = contextvars.copy_context()  # such as by when it has ended

    def in_context(item: S) -> T:
        return context.copy().run(function, item)

    with concurrent.futures.ThreadPoolExecutor(num_threads, "hashnet") as pool:
        return list(pool.map(in_context, items))


def blas_threads(number: int) -> Any:
    """A context in which a matrix product runs on at most so many threads.

    With one thread, sums have one order, and so no answer depends on the number of cores.

    Args:
        number: int, 1 or more.

    Returns:
        A context manager.
    """
    return _libraries().limit(limits=number, user_api="blas")


def one_thread() -> Any:
    """A context in which all libraries compute on one thread, those loaded since the start too.

    Returns:
        A context manager.
    """
    import threadpoolctl

    return threadpoolctl.threadpool_limits(1)


@functools.cache
def _libraries() -> "threadpoolctl.ThreadpoolController":
    """What computes products here; to look for it takes as long as to compare an image."""
    import threadpoolctl  # which most searches do without

    return threadpoolctl.ThreadpoolController()


@functools.cache
def _pool() -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(system.cores(), thread_name_prefix="hashnet")


# A forked child inherits the executor but none of its threads, and would wait for ever.
system.after_fork(_pool.cache_clear)
