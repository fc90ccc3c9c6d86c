"""Keras imported without the lines that the libraries beneath it write about the machine."""

import os
import sys

from hashnet import extras, system


def import_keras() -> None:
    """Import Keras and its backend, silently; whoever builds networks begins with this.

    TensorFlow also takes its faster CPU kernels, which it leaves off on some processors that they
    run on: whoever imports Keras through here computes the same numbers. Where it is not
    installed and JAX is, Keras runs on JAX, unless `KERAS_BACKEND` says otherwise.

    Raises:
        HashnetError: Keras or what it runs on is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    if sys.modules.get("keras"):
        return
    if not extras.is_installed("tensorflow") and extras.is_installed("jax"):
        os.environ.setdefault("KERAS_BACKEND", "jax")
    with system.without_stderr():
        extras.load("keras", "train", "Networks are built and trained with Keras.")
