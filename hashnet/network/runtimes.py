"""Running an exported network: the one file that knows OpenVINO, ONNX Runtime and LiteRT.

Each is opened by the same words and run by the same call, computes in float32 unless the file
itself holds less or less is asked for, and is imported only when it is opened. `auto` takes the
first of `FASTEST` that is installed, `soonest` the one that opens fastest.
"""

import os
import pathlib
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hashnet import extras, system
from hashnet.errors import ArgumentError, BundleError, HashnetError, UnknownNameError
from hashnet.network import onnx_check
from hashnet.network.onnx_cost import Cost

if TYPE_CHECKING:
    import keras

# Of EfficientNet-Lite0 at 224 pixels on two cores, OpenVINO encodes an eighth to a fifth more
# images a second than ONNX Runtime, which is always installed.
FASTEST = ("openvino", "onnxruntime")

# Index and queries must be rounded alike: int8 sums differ between runtimes in more than their last
# bits, and only OpenVINO computes in bfloat16.
FOR_PRECISION = {"float32": FASTEST, "bfloat16": ("openvino",), "int8": ("onnxruntime",)}

# By the end of a file's name: the runtimes that take it, and the first of them is `auto`'s.
_TAKES = {".onnx": FASTEST, ".xml": ("openvino",), ".tflite": ("litert",)}
_MODULES = {
    "openvino": "openvino",
    "onnxruntime": "onnxruntime",
    "litert": "ai_edge_litert",
    "keras": "keras",
}
RUNTIMES = tuple(_MODULES)


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a network.

    Attributes:
        dtype: str, as NumPy names it.
        shape: tuple of int, without the first axis, which is the images.
    """

    dtype: str
    shape: tuple[int | None, ...]


class Runnable(Protocol):
    """What can be run: named outputs, as a list of arrays, from named inputs.

    Attributes:
        name: str. What runs it.
    """

    name: str

    def run(self, outputs: Sequence[str], inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Compute outputs; may be called from many threads at once.

        Args:
            outputs: names of the outputs wanted.
            inputs: dict of name to what the network's `inputs` say of it.

        Returns:
            list of arrays, one for each of `outputs`.
        """


class Network(Runnable, Protocol):
    """An opened network.

    Attributes:
        inputs, outputs: dict of name to `TensorSpec`.
    """

    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]


def choose(runtime: str, takes: tuple[str, ...] = FASTEST) -> str:
    """The runtime that a name stands for.

    Args:
        runtime: str. `"auto"`, the one that encodes fastest; `"soonest"`, the one that opens
            fastest, for a handful of images; or one of `RUNTIMES`.
        takes: tuple of str. Those that can be had for the file in question, the fastest first.

    Returns:
        str, the name of an installed runtime.

    Raises:
        UnknownNameError: there is no such runtime.
        ArgumentError: the file is not for this runtime.
        HashnetError: it is not installed.

    Example:
        >>> choose("onnxruntime")
        'onnxruntime'
    """
    if runtime == "auto":
        return next((name for name in takes if _is_installed(name)), takes[-1])
    if runtime == "soonest":
        return "onnxruntime" if "onnxruntime" in takes else choose("auto", takes)
    if runtime not in RUNTIMES:
        raise UnknownNameError("runtime", runtime, ("auto", "soonest", *RUNTIMES))
    if runtime not in takes:
        raise ArgumentError(
            f"This network is for {' or '.join(takes)}.",
            f"runtime={runtime!r}",
            'Leave the choice to "auto".',
        )
    return runtime


def open_file(
    path: str | os.PathLike[str],
    runtime: str = "auto",
    *,
    num_threads: int | None = None,
    concurrent: bool = False,
    one_by_one: bool = False,
) -> Network:
    """Open an exported network.

    Args:
        path: str or path-like, ending in `.onnx`, `.xml` (OpenVINO, with its `.bin` beside it)
            or `.tflite`. A `.tflite` or `.xml` should be one of yours: their runtimes are not
            made for files of strangers, and only ONNX files are looked through first.
        runtime: as for `choose`.
        num_threads: int or None; None means one for each core this process may use.
        concurrent: bool. False: each call uses all threads, for the shortest answer. True: up
            to `num_threads` calls come at once from as many threads, and each uses one, for
            the most images a second.
        one_by_one: bool. Give the network the images of a call singly, so that what it holds
            between layers stays in the processor's caches, and an image's numbers do not depend
            on its neighbours. OpenVINO then plans for just one image.

    Returns:
        A `Network`.

    Raises:
        BundleError: the file is missing, damaged, or not a network that this runtime takes.
        HashnetError: the runtime is not installed.

    Example:
        >>> network = open_file(bundle_folder / "encoder.onnx", "onnxruntime")
        >>> network.outputs["latent"]
        TensorSpec(dtype='float32', shape=(32,))
        >>> pixels = np.zeros((2, 64, 64, 3), "uint8")
        >>> network.run(["latent"], {"image": pixels})[0].shape
        (2, 32)
    """
    path = pathlib.Path(path)
    if path.suffix not in _TAKES:
        raise BundleError(
            f"An exported network ends in {', '.join(_TAKES)}.",
            str(path),
            "Other formats are for Keras and TensorFlow to open.",
        )
    runtime = choose(runtime, _TAKES[path.suffix])
    if path.suffix != ".xml":
        return open_bytes(
            read(path),
            path,
            runtime,
            num_threads=num_threads,
            concurrent=concurrent,
            one_by_one=one_by_one,
        )
    files = [read(path), read(path.with_suffix(".bin"))]
    return _opened(_OpenVINO, path, files, num_threads, concurrent, one_by_one)


def open_bytes(
    model: bytes,
    name: str | os.PathLike[str],
    runtime: str = "auto",
    *,
    num_threads: int | None = None,
    concurrent: bool = False,
    one_by_one: bool = False,
    precision: str = "float32",
    most: Cost = onnx_check.MOST,
) -> Network:
    """Open a network from the content of its `.onnx` file, or of its `.tflite` file for LiteRT.

    From bytes, and looked through, a model cannot name further files to be read.

    Args:
        model: bytes.
        name: str or path-like, what messages call it.
        runtime, num_threads, concurrent, one_by_one: as for `open_file`.
        precision: str, one of `FOR_PRECISION`. What OpenVINO rounds to on the way; an int8 file
            says so itself.
        most: `Cost`. What an ONNX file may take for an image.

    Returns:
        A runtime, as from `open_file`.

    Raises:
        BundleError: it is not a network that this runtime takes, or takes more than it may.
        ArgumentError: the runtime does not compute in this precision.
        HashnetError: the processor does not.
    """
    if runtime == "litert":
        return _opened(_LiteRT, name, [model], num_threads, concurrent, one_by_one)
    soon = runtime == "soonest"
    runtime = choose(runtime, FOR_PRECISION[precision])
    onnx_check.check(model, name, most)
    if runtime == "onnxruntime":
        return _opened(
            _OnnxRuntime, name, [model], num_threads, concurrent, one_by_one, spins=not soon
        )
    return _opened(
        _OpenVINO, name, [model], num_threads, concurrent, one_by_one, precision=precision
    )


def open_own(model: bytes, name: str) -> Network:
    """Open a network that this process has just made: it is not looked through.

    ONNX Runtime, which is always there, computes it, with one thread for each call.

    Args:
        model: bytes, as of an `.onnx` file.
        name: str, what messages call it.

    Returns:
        A runtime, as from `open_file`.

    Raises:
        BundleError: ONNX Runtime does not take it.
    """
    return _opened(_OnnxRuntime, name, [model], 1, concurrent=True, one_by_one=False)


def from_keras(model: "keras.Model") -> Network:
    """A `keras.Model` in the words of a runtime; it takes what its own input takes.

    Args:
        model: a `keras.Model` with one input, to a dictionary of outputs.

    Returns:
        A runtime, as from `open_file`.
    """
    return _Keras(model)


def require(runtime: str) -> None:
    """Refuse before work what would be missing after it.

    Args:
        runtime: str, one of `RUNTIMES`.

    Raises:
        HashnetError: it is not installed.

    Example:
        >>> require("onnxruntime")
    """
    if not _is_installed(runtime):
        raise extras.missing(runtime, "A runtime must be installed.", f"no {runtime}")


def _is_installed(runtime: str) -> bool:
    return extras.is_installed(_MODULES[runtime])


def read(
    path: str | os.PathLike[str],
    rule: str = "A network file must exist.",
    way_out: str | None = None,
) -> bytes:
    """The content of a network file, for `open_bytes`.

    Args:
        path: str or path-like.
        rule, way_out: str. What the error says before and after the path.

    Returns:
        bytes.

    Raises:
        BundleError: it cannot be read.
    """
    try:
        return pathlib.Path(path).read_bytes()
    except OSError as error:
        raise BundleError(rule, f"{path} ({error.strerror})", way_out) from error


def _opened(
    kind: "type[_OnnxRuntime] | type[_OpenVINO] | type[_LiteRT]",
    path: str | os.PathLike[str],
    files: list[bytes],
    num_threads: int | None,
    concurrent: bool,
    one_by_one: bool,
    **options: Any,
) -> Network:
    require(kind.name)
    num_threads = num_threads or system.cores()
    try:
        if kind is _OpenVINO:
            options["single"] = one_by_one
        network = kind(files, num_threads, concurrent, **options)
    except HashnetError:
        raise
    except Exception as error:  # the runtimes' own kinds have no common base
        raise BundleError(
            f"An encoder must be a network that {kind.title} takes.",
            f"{path}: {' '.join(str(error).split())[:300]}",
        ) from error
    return _OneByOne(network) if one_by_one else network


class _OneByOne:
    def __init__(self, network: Network) -> None:
        self._network = network
        self.name, self.inputs, self.outputs = network.name, network.inputs, network.outputs

    def run(self, outputs: Sequence[str], inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        answers = [
            self._network.run(outputs, {name: rows[row : row + 1] for name, rows in inputs.items()})
            for row in range(len(next(iter(inputs.values()))))
        ]
        return [np.concatenate(parts) for parts in zip(*answers, strict=True)]


class _OnnxRuntime:
    name, title = "onnxruntime", "ONNX Runtime"

    def __init__(
        self, files: list[bytes], num_threads: int, concurrent: bool, spins: bool = True
    ) -> None:
        with system.without_stderr():  # telemetry complains where it cannot write to the home
            import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1 if concurrent else num_threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what goes wrong is raised
        # Threads that wait in a loop answer sooner, and take the cores from those that work: for
        # one answer they cost more, already while the network opens, than they bring.
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spins)))
        self._session = onnxruntime.InferenceSession(
            files[0], options, providers=["CPUExecutionProvider"]
        )
        self.inputs = self._specs(self._session.get_inputs())
        self.outputs = self._specs(self._session.get_outputs())

    @staticmethod
    def _specs(tensors: Iterable[Any]) -> dict[str, TensorSpec]:
        dtypes = {"tensor(float)": "float32"}
        return {
            tensor.name: TensorSpec(
                dtypes.get(tensor.type, tensor.type.removeprefix("tensor(")[:-1]),
                tuple(tensor.shape[1:]),
            )
            for tensor in tensors
        }

    def run(self, outputs: Sequence[str], inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        return self._session.run(outputs, inputs)


class _OpenVINO:
    name, title = "openvino", "OpenVINO"

    def __init__(
        self,
        files: list[bytes],
        num_threads: int,
        concurrent: bool,
        single: bool,
        precision: str = "float32",
    ) -> None:
        with system.without_stderr():  # as above
            import openvino

        core = openvino.Core()
        model = core.read_model(*files)
        if single:
            model.reshape({tensor: [1, *list(tensor.partial_shape)[1:]] for tensor in model.inputs})
        # Unasked, it would choose bfloat16 where the processor has it, and flip bits.
        hint = {"float32": "f32", "bfloat16": "bf16"}[precision]
        settings = {
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": num_threads,
            "NUM_STREAMS": num_threads if concurrent else 1,
            "ENABLE_CPU_PINNING": False,
        }
        self._compiled = core.compile_model(model, "CPU", settings)
        # Where the processor lacks bfloat16, the hint is passed over in silence.
        taken = self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if taken != hint:
            raise HashnetError(
                f"A {precision} network needs a processor that computes in {precision}.",
                f"one on which OpenVINO computes in {taken}",
                "Encode and search in float32, or on a processor with AVX512-BF16 or AMX.",
            )
        self.inputs = self._specs(self._compiled.inputs)
        self.outputs = self._specs(self._compiled.outputs)
        self._own = threading.local()

    @staticmethod
    def _specs(tensors: Iterable[Any]) -> dict[str, TensorSpec]:
        return {
            tensor.get_any_name(): TensorSpec(
                np.dtype(tensor.get_element_type().to_dtype()).name,
                tuple(
                    side.get_length() if side.is_static else None for side in tensor.partial_shape
                )[1:],
            )
            for tensor in tensors
        }

    def run(self, outputs: Sequence[str], inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        # A request holds the arrays of one call, so every thread has its own.
        if not hasattr(self._own, "request"):
            self._own.request = self._compiled.create_infer_request()
        results = self._own.request.infer(inputs, share_inputs=True)
        return [results[name] for name in outputs]


class _LiteRT:
    name, title = "litert", "LiteRT"

    def __init__(self, files: list[bytes], num_threads: int, concurrent: bool) -> None:
        self._model = files[0]
        self._num_threads = 1 if concurrent else num_threads
        self._own = threading.local()
        runner = self._runner()
        self.inputs = self._specs(runner.get_input_details())
        self.outputs = self._specs(runner.get_output_details())

    @staticmethod
    def _specs(details: Mapping[str, Any]) -> dict[str, TensorSpec]:
        return {
            name: TensorSpec(
                np.dtype(detail["dtype"]).name, tuple(detail["shape_signature"].tolist())[1:]
            )
            for name, detail in details.items()
        }

    def _runner(self) -> Any:
        # An interpreter holds the arrays of one call, so every thread has its own.
        if not hasattr(self._own, "runner"):
            with system.without_stderr():  # it tells which of its delegates it takes
                from ai_edge_litert.interpreter import Interpreter

                self._own.interpreter = Interpreter(
                    model_content=self._model, num_threads=self._num_threads
                )
                self._own.interpreter.allocate_tensors()
                self._own.runner = self._own.interpreter.get_signature_runner()
        return self._own.runner

    def run(self, outputs: Sequence[str], inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        results = self._runner()(**inputs)
        return [results[name] for name in outputs]


class _Keras:
    name, title = "keras", "Keras"

    def __init__(self, model: "keras.Model") -> None:
        self._model = model
        self.inputs = {"image": self._spec(model.input)}
        self.outputs = {name: self._spec(tensor) for name, tensor in model.output.items()}

    @staticmethod
    def _spec(tensor: "keras.KerasTensor") -> TensorSpec:
        return TensorSpec(tensor.dtype, tuple(tensor.shape[1:]))

    def run(self, outputs: Sequence[str], inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        results = self._model(inputs["image"], training=False)
        return [np.asarray(results[name]) for name in outputs]
