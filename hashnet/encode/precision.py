"""The same network in another precision, as a bundle of its own.

bfloat16 is OpenVINO's way of running the same file; int8 is another file, whose weights have 7 bits
(so that no sum overflows on processors without VNNI, and all get the same codes) and whose
activations have 8. Both flip bits, so such a bundle has a fingerprint of its own, and an index that
is made with it encodes its images and its queries alike.
"""

import contextlib
import logging
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hashnet import codes, files, images
from hashnet.encode.encoder import Encoder
from hashnet.errors import ArgumentError, ExportError, ImageError, UnknownNameError
from hashnet.network import bundle as bundles
from hashnet.network import runtimes
from hashnet.network.export import LIMITS, NUM_IMAGES

if TYPE_CHECKING:
    import onnx

# What takes the time. Softmax, sigmoid and lengths are few numbers, and stay float32.
_QUANTISED = ["Conv", "MatMul", "Gemm", "Add"]


def convert(
    bundle: bundles.Bundle,
    out: str | os.PathLike[str],
    precision: str,
    *,
    images_from: Sequence[str | os.PathLike[str]],
) -> bundles.Bundle:
    """Write a bundle that encodes in another precision, and measure how many bits that flips.

    `NUM_IMAGES` of the images give int8 the ranges of its numbers
    (Jacob et al., 2018, "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", section 3); codes of both precisions are compared on them.
    The hash layer stays float32: it is small, and its latents are near one half where they matter.

    Args:
        bundle: a `Bundle` of float32.
        out: str or path-like. Must not exist, or be a bundle or an empty folder.
        precision: `"bfloat16"` or `"int8"`.
        images_from: list of str or path-like, files and folders of images like those to come.

    Returns:
        The new `Bundle`. Its `origin["precision"]` says what was measured: `name`, `images`,
        `bits`, `bits_that_differ`, `bits_that_differ_share`.

    Raises:
        UnknownNameError: there is no such precision.
        ArgumentError: the bundle is not of float32 or already is what is asked for, or there are
            no images.
        BundleError: something else than a bundle is at `out`.
        ExportError: more bits flip than `LIMITS` allows.
        HashnetError: this processor does not compute in this precision, or its runtime is not
            installed.

    Example:
        >>> from hashnet.network import bundle
        >>> source = bundle.load(bundle_folder)
        >>> made = convert(source, "small.bundle", "int8", images_from=["cat.png", "dog.png"])
        >>> made.precision, made.fingerprint == source.fingerprint
        ('int8', False)
        >>> made.origin["precision"]["images"]
        2
    """
    if precision not in bundles.PRECISIONS:
        raise UnknownNameError("precision", precision, bundles.PRECISIONS)
    if precision == "float32" or bundle.precision != "float32":
        raise ArgumentError(
            "A bundle is converted from float32 to another precision.",
            f"{bundle.precision} to {precision}",
        )
    pixels = _pixels(images_from, bundle.config.image_size)
    encoder = bundle.encoder_bytes()
    if precision == "int8":
        encoder = _quantised(bundle.encoder_file, pixels)
    runtime = runtimes.choose("auto", runtimes.FOR_PRECISION[precision])
    # As an encoder will run it.
    opened = runtimes.open_bytes(encoder, out, runtime, one_by_one=True, precision=precision)
    [latents] = opened.run(["latent"], {"image": pixels})
    found = codes.from_latent(latents)
    expected = Encoder(bundle).encode(pixels).codes
    flipped = int(np.bitwise_count(found ^ expected).sum())
    num_bits = len(pixels) * bundle.config.num_bits
    if flipped > LIMITS[precision].bits * num_bits:
        raise ExportError(
            f"A {precision} network must give nearly the codes that float32 gives.",
            f"{flipped} of {num_bits} bits differ",
            "Nothing was written. Encode in float32, or convert with images like yours.",
        )
    measured = {
        "name": precision,
        "images": len(pixels),
        "bits": num_bits,
        "bits_that_differ": flipped,
        "bits_that_differ_share": flipped / num_bits,
    }
    origin = {**bundle.origin, "precision": measured}
    return bundles.save_precision(out, bundle, encoder, precision, origin=origin)


def _pixels(images_from: Sequence[str | os.PathLike[str]], size: int) -> np.ndarray:
    """uint8 `(n, size, size, 3)`, evenly from all the images that can be read."""
    found, *_ = images.find(images_from or [])
    places = np.linspace(0, len(found) - 1, min(len(found), NUM_IMAGES)).astype(int)
    pixels = []
    for file in (found[place] for place in places):
        # A file that cannot be read says nothing about a precision.
        with contextlib.suppress(ImageError):
            pixels.append(images.read_resized(file.path, (size, size)))
    if not pixels:
        raise ArgumentError(
            "Another precision is measured on images like those to come.",
            "none that can be read",
            "Name a folder of yours: --images FOLDER",
        )
    return np.stack(pixels)


def _quantised(path: pathlib.Path, pixels: np.ndarray) -> bytes:
    """bytes of the ONNX file in int8, its ranges taken from `pixels`."""
    import onnx
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # it has no types
        rows = iter(pixels)

        def get_next(self) -> dict[str, np.ndarray] | None:
            row = next(self.rows, None)
            return None if row is None else {"image": row[None]}

    with files.scratch_folder() as scratch, _quiet():
        folded, out = pathlib.Path(scratch) / "folded.onnx", pathlib.Path(scratch) / "int8.onnx"
        # Normalisation goes into the convolutions before it: what is rounded once is rounded less.
        quantization.quant_pre_process(path, folded, skip_symbolic_shape=True)
        quantization.quantize_static(
            folded,
            out,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=_QUANTISED,
            nodes_to_exclude=_after_feature(onnx.load(folded)),
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        return out.read_bytes()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice to do what has been done, which goes to the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _after_feature(network: "onnx.ModelProto") -> list[str]:
    """Names of the nodes that the feature does not depend on: the hash layer and the classes."""
    needed, before = {"feature"}, set()
    for node in reversed(network.graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            before.add(node.name)
    return [node.name for node in network.graph.node if node.name not in before]
