"""Data sets small enough to come along."""

import pathlib

import numpy as np


def fashion_mnist() -> dict[str, np.ndarray]:
    """A sample of Fashion-MNIST (Xiao et al. 2017): 4,000 training and 500 test images.

    Returns:
        dict of `train_images`, `test_images`: uint8 `(n, 28, 28)`, grey, and `train_labels`,
        `test_labels`: str `(n,)`, class names.

    Example:
        >>> fashion_mnist()["train_images"].shape
        (4000, 28, 28)
    """
    with np.load(pathlib.Path(__file__).with_name("fashion_mnist.npz"), allow_pickle=False) as file:
        sample = {name: file[name] for name in file.files}
    classes = sample.pop("classes")
    return {
        name: classes[values] if name.endswith("labels") else values
        for name, values in sample.items()
    }
