"""When to load compiled code.

Numba, which compiles it, is an extra: without it NumPy searches, with the same answers. With it,
importing it and loading compiled loops takes some tenths of a second: longer than NumPy needs
for one search of a million codes. So searches begin with NumPy, and the kernels are loaded once
the work done that way has cost about as much as loading them.
"""

import functools
import importlib
from types import ModuleType

# NumPy moves about this many bytes in the time it takes to load the kernels (0.35 s).
LOADING_BYTES = 1 << 29

_numpy_bytes = 0


def kernels(num_bytes: int) -> ModuleType | None:
    """Return the module of compiled kernels, or None while NumPy is the quicker or the only way.

    Args:
        num_bytes: int. How many bytes of codes or features the task at hand reads.

    Returns:
        The module `hashnet.retrieval.search.kernels`, or None.
    """
    global _numpy_bytes
    _numpy_bytes += num_bytes
    return load() if _numpy_bytes >= LOADING_BYTES else None


def is_missed() -> bool:
    """Whether this process has searched for longer than kernels take to load, and has none.

    Returns:
        bool.

    Example:
        >>> is_missed()  # with Numba, or after little work
        False
    """
    return _numpy_bytes >= LOADING_BYTES and load() is None


@functools.cache
def load() -> ModuleType | None:
    """Load the compiled kernels now, as a server does before its first query.

    Returns:
        The module `hashnet.retrieval.search.kernels`, or None where Numba cannot be imported.
    """
    global _numpy_bytes
    try:
        importlib.import_module("numba")
    except ImportError:  # not installed, or not made for this NumPy
        return None
    _numpy_bytes = LOADING_BYTES
    import hashnet.retrieval.search.kernels

    return hashnet.retrieval.search.kernels
