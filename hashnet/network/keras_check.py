"""Looking through a Keras weights file before Keras opens it.

Only weights are ever taken from such a file; what it says about layers and classes is not read, so
nothing in it can run. What is left are files that name other files, which HDF5 would read in their
place, and small files that unfold to more than memory holds.
"""

import contextlib
import io
import math
import os
import threading
import zipfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hashnet.errors import WeightsError

if TYPE_CHECKING:
    import h5py
    import keras

# Names inside a `.keras` file.
_WEIGHTS = "model.weights.h5"
_MEMBERS = {"config.json", "metadata.json", _WEIGHTS}

# An optimizer keeps up to three numbers more for each weight; then there is HDF5's own order.
_COPIES, _OVERHEAD = 4, 64 * 2**20
_MAX_OBJECTS = 100_000
# The largest vision transformers in use have as many.
MOST_WEIGHTS = 1 << 30

_counting = threading.Lock()


def check(path: str | os.PathLike[str], model: "keras.Model") -> None:
    """Refuse a weights file that refers to other files or is larger than its network needs.

    Args:
        path: str or path-like. A `.keras` file, or HDF5 weights (`.h5`).
        model: the `keras.Model` that the weights are for.

    Raises:
        WeightsError: it is damaged; it holds a whole model in HDF5, links, weights in other
            files, or anything but arrays of numbers; or it would unfold to more than four times
            the network's weights in float64 and 64 MiB.

    Example:
        >>> from hashnet.network import bundle
        >>> loaded = bundle.load(bundle_folder)
        >>> check(loaded.folder / "model.keras", loaded.load_model())
    """
    weights = sum(8 * math.prod(weight.shape) for weight in model.weights)  # float64 at most
    most_bytes = _COPIES * weights + _OVERHEAD
    try:
        with _hdf5(path, most_bytes) as file:
            _check_hdf5(file, most_bytes)
    except _Refused as refused:
        raise WeightsError(
            "A weights file must hold plain arrays of numbers, and no more than its network needs.",
            f"{path}: {refused}",
            "Take weights from a file that you trust.",
        ) from None
    except Exception as error:  # zipfile and h5py raise as many kinds as a file can be broken
        raise WeightsError(
            "A weights file must be whole.", f"{path} ({str(error) or type(error).__name__})"
        ) from error


@contextlib.contextmanager
def weights_of_at_most(most: int = MOST_WEIGHTS) -> "Iterator[None]":
    """Refuse to build layers with more weights than that, before there is memory for them.

    What a file says of its layers is a few bytes; what they take, when they are built by it, may
    be all there is.

    Args:
        most: int. Numbers, of all layers that this thread makes meanwhile.

    Raises:
        WeightsError: a layer wants more.

    Example:
        >>> import keras
        >>> with weights_of_at_most(10):
        ...     keras.layers.Dense(10**6).build((None, 10**6))
        Traceback (most recent call last):
        hashnet.errors.WeightsError: A network is built of layers ... Received: more than 10 ...
    """
    import keras

    whole, thread, num_weights = keras.layers.Layer.add_weight, threading.get_ident(), 0

    def counted(self: Any, shape: Any = None, *arguments: Any, **options: Any) -> Any:
        nonlocal num_weights
        if threading.get_ident() == thread:
            num_weights += math.prod(shape or ())
            if num_weights > most:
                raise WeightsError(
                    "A network is built of layers whose weights a file can hold.",
                    f"more than {most} weights",
                    "Take networks from whom you trust.",
                )
        return whole(self, shape, *arguments, **options)

    with _counting:
        keras.layers.Layer.add_weight = counted
        try:
            yield
        finally:
            keras.layers.Layer.add_weight = whole


class _Refused(Exception):
    """Something in a file that must not be there."""


@contextlib.contextmanager
def _hdf5(path: str | os.PathLike[str], most_bytes: int) -> "Iterator[h5py.File]":
    """The HDF5 file at `path`, or the one in the archive there."""
    import h5py

    if not os.fspath(path).endswith(".keras"):
        with h5py.File(path, "r") as file:
            yield file
        return
    with zipfile.ZipFile(path) as archive:
        others = set(archive.namelist()) - _MEMBERS
        if others:
            raise _Refused(f"it also holds {min(others)!r}")
        # No more than this is ever read, whatever the stream inside would unfold to.
        size = archive.getinfo(_WEIGHTS).file_size
        if size > most_bytes:
            raise _Refused(f"{size} bytes of weights, more than {most_bytes}")
        content = archive.read(_WEIGHTS)
    with h5py.File(io.BytesIO(content), "r") as file:
        yield file


def _check_hdf5(file: "h5py.File", most_bytes: int) -> None:
    import h5py

    if "model_config" in file.attrs:
        raise _Refused("a whole model in HDF5, an old format that can hold code")
    groups, seen, num_bytes, num_objects = [file], set(), 0, 0
    while groups:
        group = groups.pop()
        for name in group:
            num_objects += 1
            if num_objects > _MAX_OBJECTS:
                raise _Refused(f"more than {_MAX_OBJECTS} objects")
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise _Refused(f"a link to something else, {name!r}")
            one = group[name]
            if isinstance(one, h5py.Group):
                place = h5py.h5o.get_info(one.id).addr
                if place not in seen:  # a group may hold itself
                    seen.add(place)
                    groups.append(one)
                continue
            if not isinstance(one, h5py.Dataset):
                raise _Refused(f"{name!r} is no array")
            if one.external or one.is_virtual:
                raise _Refused(f"{name!r} lies in another file")
            if one.dtype.kind not in "biuf":
                raise _Refused(f"{name!r} is of {one.dtype}, no numbers")
            num_bytes += one.size * one.dtype.itemsize
            if num_bytes > most_bytes:
                raise _Refused(f"more than {most_bytes} bytes of arrays")
