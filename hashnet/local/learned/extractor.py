"""Extractors that are a network from an image to its best local features: see `NETWORKS`.

Their weights come from packages of their own. An index carries the network that was written of
them, so that it can be searched and added to where no such package is installed.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from hashnet import images
from hashnet.errors import BundleError, ShapeError
from hashnet.local import packaged
from hashnet.local.features import LocalFeatures
from hashnet.local.learned import aliked, disk, xfeat
from hashnet.local.learned.layers import MULTIPLE
from hashnet.network import onnx_graph, runtimes
from hashnet.network.torch_weights import StateDict

if TYPE_CHECKING:
    import onnx

# Images are made of this longer side, larger or smaller, and of whole multiples of `MULTIPLE`.
SIDE = 800
MIN_SIDE = 64


@dataclass(frozen=True)
class Network:
    """A network for local features.

    Attributes:
        package: the `packaged.Package` that carries its weights.
        file: str, in the package.
        make: function from a `StateDict` to the network.
        least_score: float. Features of no higher score are left out.
    """

    package: packaged.Package
    file: str
    make: "Callable[[StateDict], onnx.ModelProto]"
    least_score: float


NETWORKS = {
    "aliked": Network(
        packaged.LIGHTGLUE, "pretrained_weights/aliked-n16.pth", aliked.network, 0.02
    ),
    "disk": Network(packaged.LIGHTGLUE, "pretrained_weights/disk-depth-save.pth", disk.network, 0),
    "xfeat": Network(packaged.XFEAT, "weights/xfeat.pt", xfeat.network, 0),
}


def file_of(name: str) -> str:
    """What the network of an extractor is called in an index.

    Args:
        name: str, one of `NETWORKS`.

    Returns:
        str.

    Example:
        >>> file_of("aliked")
        'aliked.onnx'
    """
    return f"{name}.onnx"


def export(name: str, path: str | os.PathLike[str]) -> None:
    """Write the network of an extractor as the ONNX file that `Learned` runs.

    Args:
        name: str, one of `NETWORKS`.
        path: str or path-like.

    Raises:
        WeightsError: its weights are not installed; the message says how they are.
    """
    chosen = NETWORKS[name]
    tensors = packaged.weights(chosen.package, chosen.file, f"--local {name}")
    network = chosen.make(StateDict(tensors, name, chosen.file))
    with open(path, "wb") as file:
        file.write(onnx_graph.content(network))


class Learned:
    """Extracts local features with an exported network.

    Args:
        name: str, one of `NETWORKS`.
        network: a runtime, as `runtimes.open_file` gives.
        fingerprint: str. Changes with anything that could change a feature.

    Attributes:
        name, fingerprint: as given.
        descriptor_dim: int.

    Raises:
        BundleError: the network is none for local features.
    """

    def __init__(self, name: str, network: runtimes.Network, fingerprint: str = "") -> None:
        given = {one: spec.dtype for one, spec in network.outputs.items()}
        if set(network.inputs) != {"image"} or given != dict.fromkeys(
            ("yx", "scores", "descriptors"), "float32"
        ):
            raise BundleError(
                "A network for local features is a file of hashnet.local.learned.export.",
                f"{network.inputs} to {network.outputs}",
            )
        self.name, self.fingerprint = name, fingerprint
        self.descriptor_dim = network.outputs["descriptors"].shape[-1] or 0
        self._network = network
        self._least_score = NETWORKS[name].least_score

    @classmethod
    def open(
        cls, name: str, path: str | os.PathLike[str], *, num_threads: int | None = None
    ) -> Self:
        """Open an exported network.

        Args:
            name: str, one of `NETWORKS`.
            path: str or path-like, an ONNX file of `export`.
            num_threads: as for `runtimes.open_file`.

        Returns:
            The opened `Learned`.

        Raises:
            BundleError: the file is missing, damaged or of another kind.
        """
        content = runtimes.read(
            path,
            "Local features need their network.",
            "Write it with hashnet.local.learned.export.",
        )
        # OpenVINO would compile the network anew for each size of image.
        network = runtimes.open_bytes(content, path, "onnxruntime", num_threads=num_threads)
        return cls(name, network, hashlib.sha256(content).hexdigest())

    def extract(self, image: np.ndarray) -> LocalFeatures:
        """Extract the local features of an image.

        Args:
            image: uint8 `(height, width, 3)`, RGB and upright.

        Returns:
            `LocalFeatures`, `MAX_FEATURES` at most.

        Raises:
            ShapeError: the image is of another dtype or shape.
        """
        if getattr(image, "dtype", None) != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ShapeError(
                "An image is a uint8 array of shape (height, width, 3).",
                f"{getattr(image, 'dtype', type(image))} {np.shape(image)}",
            )
        size = size_of(image.shape[:2])
        pixels = image if size == image.shape[:2] else images.resize(image, size)
        yx, scores, descriptors = self._network.run(
            ["yx", "scores", "descriptors"], {"image": np.ascontiguousarray(pixels)[None]}
        )
        keep = (scores > self._least_score) & np.isfinite(yx).all(axis=1)
        keep &= np.isfinite(descriptors).all(axis=1)
        # Pixels are squares: their edges coincide at all sizes, their centres do not.
        factors = np.divide(image.shape[:2], size, dtype=np.float32)
        places = (yx[keep] + np.float32(0.5)) * factors - np.float32(0.5)
        return LocalFeatures(places, descriptors[keep], scores[keep])


def size_of(shape: Sequence[int]) -> tuple[int, int]:
    """What size an image is made of before features are sought in it.

    Args:
        shape: height and width in pixels.

    Returns:
        height, width: int, whole multiples of `MULTIPLE`.

    Example:
        >>> size_of((3000, 4000))
        (608, 800)
    """
    factor = SIDE / max(shape)
    height, width = (max(MIN_SIDE, round(side * factor / MULTIPLE) * MULTIPLE) for side in shape)
    return height, width
