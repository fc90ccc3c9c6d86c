"""Cut the bundled sample out of Fashion-MNIST (Xiao et al. 2017, MIT licence).

    python hashnet/samples/make_fashion_mnist.py /usr/share/datasets/fashion-mnist

400 training and 50 test images of each class, the first ones in the order of the data set.
"""

import gzip
import pathlib
import sys

import numpy as np

CLASSES = (
    "t-shirt", "trouser", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip


def read_idx(path):
    """Read one file of the IDX format.

    Args:
        path: path-like, a gzipped file of bytes.

    Returns:
        uint8 array, read-only, of the shape that the file states.
    """
    with gzip.open(path) as file:
        data = file.read()
    shape = [int.from_bytes(data[4 * i : 4 * i + 4], "big") for i in range(1, data[3] + 1)]
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)


def first_of_each(folder, part, count):
    """Take the first images of each class, in the order of the data set.

    Args:
        folder: pathlib.Path of the four files of Fashion-MNIST.
        part: `"train"` or `"t10k"`.
        count: int, images of each class.

    Returns:
        images: uint8 array of shape `(10 * count, 28, 28)`.
        labels: uint8 array of shape `(10 * count,)`, 0 to 9.
    """
    images = read_idx(folder / f"{part}-images-idx3-ubyte.gz")
    labels = read_idx(folder / f"{part}-labels-idx1-ubyte.gz")
    rows = np.concatenate([np.flatnonzero(labels == label)[:count] for label in range(10)])
    return images[np.sort(rows)], labels[np.sort(rows)]


if __name__ == "__main__":
    source = pathlib.Path(sys.argv[1])
    train_images, train_labels = first_of_each(source, "train", 400)
    test_images, test_labels = first_of_each(source, "t10k", 50)
    np.savez_compressed(
        pathlib.Path(__file__).with_name("fashion_mnist.npz"),
        classes=np.array(CLASSES),
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
    )
