"""From a bundle to the formats that other runtimes take, each compared with Keras before it counts.

The exported graph does all that lies between pixels and code, so that nothing has to be written
twice: uint8 images in; latent, code, feature and scores out, by these names, any number at once.
"""

import contextlib
import io
import json
import os
import pathlib
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hashnet import codes, extras, images, system
from hashnet.errors import ArgumentError, ExportError, HashnetError, UnknownNameError
from hashnet.network import onnx_writer, runtimes

if TYPE_CHECKING:
    import keras

    from hashnet.network.bundle import Bundle

Path = str | os.PathLike[str]

# How the names of the files end; a SavedModel is a folder.
SUFFIXES = {
    "keras": ".keras",
    "saved_model": "",
    "onnx": ".onnx",
    "openvino": ".xml",
    "litert": ".tflite",
}
PRECISIONS = ("float32", "float16", "int8")
OUTPUTS = ("latent", "code", "feature", "scores")  # the last where there are classes

# An export is compared on this many images, and int8 finds its ranges on them.
NUM_IMAGES = 100
_BATCH = 10

# A latent this near to one half may fall on either side of it in another order of adding up.
NEAR_HALF = 1e-4


@dataclass(frozen=True)
class Limits:
    """What a good export may differ by.

    Attributes:
        difference: float. Largest difference of a latent, feature or score; all are 0..1.
        bits: float, 0..1. Share of all bits that may differ, those near one half left out.
    """

    difference: float
    bits: float


# float16 rounds weights to 11 bits, int8 weights and activations to 8. The steep sigmoid of H
# makes any difference of some latents large, so there the bits alone decide.
LIMITS = {
    "float32": Limits(1e-3, 0.0),
    "float16": Limits(1.0, 0.01),
    "int8": Limits(1.0, 0.15),
    "bfloat16": Limits(1.0, 0.05),
}


@dataclass(frozen=True)
class Comparison:
    """How an exported network differs from the Keras model; written beside it as JSON.

    Attributes:
        format, precision: str.
        runtime: str. What the export was run with.
        fingerprint: str. Of the bundle.
        images: int. How many images were compared.
        images_from: str. Where they came from.
        largest_difference: dict of `latent`, `feature` and `scores` to float.
        bits: int. How many bits were compared.
        bits_that_differ: int.
        bits_that_differ_share: float, 0..1.
        bits_near_half: dict of bit to int. In how many images Keras's latent of this bit was
            within `NEAR_HALF` of one half; bits without any are left out.
        differing: list of dict of `image`, `bit`, `keras`, `export`: position, place, and both
            latents of the bits that differ; the first hundred.
        differing_far_from_half: int. Those of the bits that differ that were not near one half.
        codes_are_packed_latents: bool. Whether each code is its own latent, cut and packed.
    """

    format: str
    precision: str
    runtime: str
    fingerprint: str
    images: int
    images_from: str
    largest_difference: dict[str, float]
    bits: int
    bits_that_differ: int
    bits_that_differ_share: float
    bits_near_half: dict[str, int]
    differing: list[dict[str, int | float]]
    differing_far_from_half: int
    codes_are_packed_latents: bool

    def faults(self) -> list[str]:
        """List of str: what makes this a bad export; empty for a good one."""
        limits = LIMITS[self.precision]
        found = []
        for name, difference in self.largest_difference.items():
            if not difference <= limits.difference:  # what is not a number is not small either
                found.append(f"{name} differs by {difference:.3g}, more than {limits.difference}")
        if self.differing_far_from_half > limits.bits * self.bits:
            found.append(
                f"{self.differing_far_from_half} of {self.bits} bits differ that were not within "
                f"{NEAR_HALF} of one half"
            )
        if not self.codes_are_packed_latents:
            found.append("codes are not the packed latents")
        return found


def export(
    bundle: "Bundle",
    out: Path,
    format: str,
    *,
    precision: str = "float32",
    images_from: Sequence[Path] | None = None,
) -> Comparison:
    """Write a bundle's network in another format, compared with the Keras model and found good.

    The graph takes `image`, uint8 `(n, image_size, image_size, 3)`, RGB and upright, for any n,
    and gives `latent` float32 `(n, num_bits)`, `code` uint8 `(n, code_bytes)` with the first bit
    highest, `feature` float32 `(n, feature_dim)` and `scores` float32 `(n, classes)`. A
    SavedModel has the signature `serving_default`. Beside it comes OUT.json, the comparison.

    Args:
        bundle: a `Bundle`.
        out: str or path-like, ending as `SUFFIXES` says. A former export there is replaced; if
            this one fails, it stays.
        format: str, one of `SUFFIXES`.
        precision: str, one of `PRECISIONS`; other than float32 for `litert` only. `float16`
            halves the file, `int8` quarters it, and both flip bits: encode index and queries
            with the same file. For an index in another precision see `hashnet.encode.precision`.
        images_from: list of str or path-like, files and folders of images to compare on, the
            first `NUM_IMAGES`; int8 also takes the ranges of its numbers from them and must have
            them. None compares on images of the bundled sample of Fashion-MNIST.

    Returns:
        The `Comparison`.

    Raises:
        UnknownNameError: there is no such format or precision.
        ArgumentError: the name or the precision does not suit the format, or images are missing.
        BundleError: the bundle's weights are damaged.
        ExportError: the export differs from the Keras model by more than `LIMITS`, or something
            else than an export is in the way.
        HashnetError: the format's runtime is not installed.

    Example:
        >>> from hashnet.network import bundle
        >>> comparison = export(bundle.load(bundle_folder), "pets.onnx", "onnx")
        >>> comparison.largest_difference["feature"] < 1e-4
        True
    """
    out = pathlib.Path(os.path.abspath(out))
    _check_arguments(out, format, precision, images_from)
    if bundle.precision != "float32":
        raise ArgumentError(
            "An export is made from a float32 bundle: other codes do not mix with its.",
            f"a bundle of {bundle.precision}",
        )
    if bundle.config.takes_vectors:
        raise ArgumentError(
            "An export takes images.",
            "a bundle of vectors",
            "Its encoder.onnx is from vectors to codes.",
        )
    pixels, origin = _pixels(images_from, bundle.config.image_size)
    model = bundle.load_model()
    names = tuple(name for name in OUTPUTS if name in ("code", *model.output))
    encoder = graph(model, names)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        beside = pathlib.Path(scratch) / out.name
        with _quiet():
            _WRITERS[format](model, encoder, beside, precision, pixels)
            exported = _open(beside, format)
        expected = _run(runtimes.from_keras(encoder), names, pixels)
        comparison = Comparison(
            format=format,
            precision=precision,
            runtime=exported.name,
            fingerprint=bundle.fingerprint,
            images=len(pixels),
            images_from=origin,
            **_compared(expected, _run(exported, names, pixels)),
        )
        faults = comparison.faults()
        if faults:
            raise ExportError(
                "An export must give what the Keras model gives.",
                f"{format} {precision}: {'; '.join(faults)}",
                "Nothing was written. Try another format or precision, or images like yours.",
            )
        del exported  # which may have the file mapped, and Windows moves no such file
        report = pathlib.Path(scratch) / f"{out.name}.json"
        report.write_text(json.dumps(asdict(comparison), indent=1) + "\n", encoding="ascii")
        _put(beside, report, out)
    return comparison


def graph(model: "keras.Model", outputs: Sequence[str]) -> "keras.Model":
    """A network that does all between pixels and code.

    Args:
        model: a `keras.Model` from `model.build`.
        outputs: some of `OUTPUTS`.

    Returns:
        A `keras.Model` from `image`, uint8 `(n, image_size, image_size, 3)`, to a dictionary of
        these outputs.

    Example:
        >>> from hashnet.network import model
        >>> config = model.HashNetConfig(image_size=32, num_bits=12, classes=("a", "b"))
        >>> encoder = graph(model.build(config, weights=None), ("code", "feature"))
        >>> {name: (end.dtype, tuple(end.shape)) for name, end in encoder.output.items()}
        {'code': ('uint8', (None, 2)), 'feature': ('float32', (None, 1280))}
    """
    import keras

    size = model.input.shape[1]
    pixels = keras.Input((size, size, 3), dtype="uint8", name="image")
    tensors = dict(model(keras.ops.cast(pixels, "float32")))
    if "code" in outputs:
        tensors["code"] = _packed(tensors["latent"])
    encoder = keras.Model(pixels, {name: tensors[name] for name in outputs}, name="encoder")
    encoder(np.zeros((1, size, size, 3), "uint8"))  # keras exports only what has been called
    return encoder


def _packed(latent: "keras.KerasTensor") -> "keras.KerasTensor":
    """What `codes.from_latent` does, as part of a network."""
    from keras import ops

    num_bits = latent.shape[-1]
    width = codes.code_bytes(num_bits)
    # In integers, which no precision rounds.
    bits = ops.cast(latent >= 0.5, "int32")  # (n, num_bits)
    bits = ops.pad(bits, ((0, 0), (0, 8 * width - num_bits)))  # (n, 8 * code_bytes)
    bits = ops.reshape(bits, (-1, width, 8))
    values = np.array([128, 64, 32, 16, 8, 4, 2, 1], "int32")
    return ops.cast(ops.sum(bits * values, axis=-1), "uint8")  # (n, code_bytes)


def _check_arguments(
    out: pathlib.Path, format: str, precision: str, images_from: Sequence[Path] | None
) -> None:
    if format not in SUFFIXES:
        raise UnknownNameError("format", format, SUFFIXES)
    if precision not in PRECISIONS:
        raise UnknownNameError("precision", precision, PRECISIONS)
    if precision != "float32" and format != "litert":
        raise ArgumentError(
            "Only LiteRT files hold other numbers than float32.", f"{precision} for {format}"
        )
    if not out.name.endswith(SUFFIXES[format]):
        raise ArgumentError(
            f"The name of an export to {format} ends in {SUFFIXES[format]}.", str(out)
        )
    if precision == "int8" and not images_from:
        raise ArgumentError(
            "int8 needs images like those it will see, for the ranges of its numbers.",
            "no images",
            "Name a folder of yours: --images FOLDER",
        )
    if out.is_dir() and (format != "saved_model" or not _is_saved_model(out)):
        raise ExportError(
            "An export replaces only a former export.", str(out), "Give another name."
        )
    if format == "saved_model" and out.is_file():
        raise ExportError("A SavedModel is a folder.", str(out), "Give another name.")
    needs = {"openvino": "openvino", "litert": "litert"}.get(format)
    if needs:
        runtimes.require(needs)
    if format in ("saved_model", "litert") and not extras.is_installed("tensorflow"):
        raise extras.missing("train", "TensorFlow writes this format.", f"{format}, and none there")


def _is_saved_model(folder: pathlib.Path) -> bool:
    return (folder / "saved_model.pb").is_file() or not any(folder.iterdir())


def _pixels(images_from: Sequence[Path] | None, size: int) -> tuple[np.ndarray, str]:
    """(uint8 `(n, size, size, 3)`, text that says where from)."""
    if not images_from:
        from hashnet.samples import fashion_mnist

        grey = fashion_mnist()["test_images"][:NUM_IMAGES]
        colour = grey[..., None].repeat(3, axis=-1)
        return np.stack([images.resize(image, (size, size)) for image in colour]), (
            "hashnet.samples.fashion_mnist"
        )
    found, *_ = images.find(images_from)
    pixels = []
    for file in found:
        # A file that cannot be read says nothing about the export.
        with contextlib.suppress(HashnetError):
            pixels.append(images.read_resized(file.path, (size, size)))
        if len(pixels) == NUM_IMAGES:
            break
    if not pixels:
        raise ArgumentError(
            "An export is compared on at least one image.",
            f"none in {', '.join(map(os.fsdecode, images_from))}",
        )
    return np.stack(pixels), "images of the caller"


# --- Formats ----------------------------------------------------------------------------------


def _write_keras(
    _model: "keras.Model",
    encoder: "keras.Model",
    path: pathlib.Path,
    _precision: str,
    _pixels: np.ndarray,
) -> None:
    encoder.save(path)


def _write_saved_model(
    _model: "keras.Model",
    encoder: "keras.Model",
    path: pathlib.Path,
    _precision: str,
    _pixels: np.ndarray,
) -> None:
    encoder.export(path, format="tf_saved_model", verbose=False)


def _write_onnx(
    model: "keras.Model",
    _encoder: "keras.Model",
    path: pathlib.Path,
    _precision: str,
    _pixels: np.ndarray,
) -> None:
    path.write_bytes(onnx_writer.write(model, tuple(model.output), code=True))


def _write_openvino(
    model: "keras.Model",
    encoder: "keras.Model",
    path: pathlib.Path,
    precision: str,
    pixels: np.ndarray,
) -> None:
    import openvino

    # By way of ONNX, as Keras's own way loses the names of the outputs.
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        step = pathlib.Path(scratch) / "step.onnx"
        _write_onnx(model, encoder, step, precision, pixels)
        openvino.save_model(openvino.convert_model(step), path, compress_to_fp16=False)


def _write_litert(
    _model: "keras.Model",
    encoder: "keras.Model",
    path: pathlib.Path,
    precision: str,
    pixels: np.ndarray,
) -> None:
    import tensorflow as tf

    # Without the operators of TensorFlow that only its own builds of LiteRT have.
    operators = [tf.lite.OpsSet.TFLITE_BUILTINS]
    options: dict[str, Any] = {}
    if precision != "float32":
        options["optimizations"] = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        options["target_spec"] = {"supported_types": [tf.float16]}
    if precision == "int8":
        operators.insert(0, tf.lite.OpsSet.TFLITE_BUILTINS_INT8)
        options["representative_dataset"] = lambda: ({"image": one[None]} for one in pixels)
    options["target_spec"] = {**options.get("target_spec", {}), "supported_ops": operators}
    encoder.export(os.fspath(path), format="litert", verbose=False, **options)


_WRITERS = {
    "keras": _write_keras,
    "saved_model": _write_saved_model,
    "onnx": _write_onnx,
    "openvino": _write_openvino,
    "litert": _write_litert,
}


def _open(path: pathlib.Path, format: str) -> runtimes.Runnable:
    """The export in its own runtime."""
    if format == "keras":
        import keras

        return runtimes.from_keras(keras.saving.load_model(path))
    if format == "saved_model":
        return _SavedModel(path)
    runtime = {"onnx": "onnxruntime", "openvino": "openvino", "litert": "litert"}[format]
    return runtimes.open_file(path, runtime)


class _SavedModel:
    """An export in TensorFlow's format, in the words of a runtime.

    Only here, for a file that was written a moment ago: a SavedModel can hold anything.
    """

    name = "tensorflow"

    def __init__(self, path: pathlib.Path) -> None:
        import tensorflow as tf

        self._loaded = tf.saved_model.load(os.fspath(path))

    def run(self, outputs: Sequence[str], inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        import tensorflow as tf

        serve = self._loaded.signatures["serving_default"]
        results = serve(image=tf.constant(inputs["image"]))
        return [results[name].numpy() for name in outputs]


def _put(beside: pathlib.Path, report: pathlib.Path, out: pathlib.Path) -> None:
    """Move the export and its report into place; the file that is asked for comes last."""
    weights = beside.with_suffix(".bin")
    if weights.is_file():  # OpenVINO's
        system.replace(weights, out.with_suffix(".bin"))
    system.replace(report, out.with_name(report.name))
    if out.is_dir():
        shutil.rmtree(out)
    system.replace(beside, out)


# --- Comparing --------------------------------------------------------------------------------


def _run(
    network: runtimes.Runnable, names: Sequence[str], pixels: np.ndarray
) -> dict[str, np.ndarray]:
    """dict of outputs to arrays, in batches that end with a smaller one, as they do in life."""
    starts = [*range(0, len(pixels), _BATCH)]
    parts = [
        network.run(list(names), {"image": pixels[start : start + _BATCH]}) for start in starts
    ]
    return {
        name: np.concatenate([part[place] for part in parts]) for place, name in enumerate(names)
    }


def _compared(expected: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> dict[str, Any]:
    latent = expected["latent"]
    differs = (latent >= 0.5) != (found["latent"] >= 0.5)
    near_half = np.abs(latent - 0.5) <= NEAR_HALF
    packed = np.packbits(found["latent"] >= 0.5, axis=1)
    counts = near_half.sum(axis=0)
    return {
        "largest_difference": {
            name: float(np.abs(expected[name] - found[name]).max())
            for name in ("latent", "feature", "scores")
            if name in expected
        },
        "bits": differs.size,
        "bits_that_differ": int(differs.sum()),
        "bits_that_differ_share": float(differs.mean()),
        "bits_near_half": {str(bit): int(counts[bit]) for bit in np.flatnonzero(counts)},
        "differing": [
            {
                "image": int(row),
                "bit": int(bit),
                "keras": float(latent[row, bit]),
                "export": float(found["latent"][row, bit]),
            }
            for row, bit in np.argwhere(differs)[:100]
        ],
        "differing_far_from_half": int((differs & ~near_half).sum()),
        "codes_are_packed_latents": bool(
            found["code"].dtype == np.uint8 and np.array_equal(found["code"], packed)
        ),
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the converters' chatter away from a user who asked for a file."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
