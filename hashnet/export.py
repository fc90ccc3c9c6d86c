"""Turning a Keras network into files that other runtimes take."""

import contextlib
import io
import logging
import os
import warnings

import numpy as np


def to_onnx(model, path):
    """Write the network as ONNX: uint8 images in; latent, feature and scores out.

    Args:
        model: a `keras.Model` from `hashnet.model.build`.
        path: str or path-like ending in `.onnx`.
    """
    import keras

    size = model.input.shape[1]
    pixels = keras.Input((size, size, 3), dtype="uint8", name="image")
    outputs = model(keras.ops.cast(pixels, "float32"))
    encoder = keras.Model(pixels, outputs, name="encoder")
    encoder(np.zeros((1, size, size, 3), "uint8"))  # keras exports only what has been called
    with _quiet():
        encoder.export(os.fspath(path), format="onnx", verbose=False)


@contextlib.contextmanager
def _quiet():
    """Keep the converters' chatter away from a user who asked for an index."""
    logger = logging.getLogger("tf2onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)
