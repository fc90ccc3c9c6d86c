"""DELF: deep local features, from the same convolution map as the hash is made of.

A pyramid of sizes of an image goes through the backbone up to its map of stride 16. Every place of
every map is a local feature: its centre in the image follows from the layers, and for a peak from
the scores beside it as well, its score says how much it tells (attention), its descriptor is the
map's column there, or its root, of length 1, cut to 64 principal components, of length 1 again. The
best 1000 are kept, those first that are peaks: that score no less than their eight neighbours on
the map.

All but the pyramid is one ONNX network, which `export` writes with Keras and `Delf` runs without.
The `delf.onnx` of an index is the head alone where `encoder.onnx` gives the map: see `map_files`.

Reference:
    Noh, Araujo, Sim, Weyand and Han, "Large-Scale Image Retrieval with Attentive Deep Local
    Features", ICCV 2017, sections 4.1 to 4.3.
"""

import hashlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from hashnet import images
from hashnet.errors import ArgumentError, BundleError, ShapeError
from hashnet.local import map_files
from hashnet.local.delf_head import ATTENTION, NORM, SCALES_BEFORE, Head
from hashnet.local.features import MAX_FEATURES, LocalFeatures
from hashnet.network import runtimes
from hashnet.network.bundle import Bundle
from hashnet.network.geometry import Geometry

if TYPE_CHECKING:
    import keras

FILE = "delf.onnx"
MIN_SIDE = 32  # pixels; of a smaller level the map is hardly more than padding
MAX_PIXELS = 4_200_000  # of a level, which takes a second and 2 GB


def export(
    path: str | os.PathLike[str],
    backbone: "str | keras.Model" = "efficientnet_lite0",
    head: Head | None = None,
) -> None:
    """Write a backbone up to its map, with a head, as the ONNX file that `Delf` runs.

    Args:
        path: str or path-like ending in `.onnx`.
        backbone, head: as for `map_files.export`.

    Raises:
        UnknownNameError, ArgumentError, WeightsError, ShapeError: as for `map_files.export`.
    """
    map_files.export(path, backbone, head)


def export_for(bundle: Bundle, path: str | os.PathLike[str], head: Head | None = None) -> None:
    """Write what an index of this bundle needs to extract local features, besides its encoder.

    Args:
        bundle: a `Bundle`.
        path: str or path-like ending in `.onnx`.
        head: a `Head` for the map of this bundle's network; None as for `map_files.export`.

    Raises:
        ArgumentError, WeightsError, ShapeError: as for `map_files.export_for`.
    """
    map_files.export_for(bundle, path, head)


class Delf:
    """Extracts local features with an exported network, without Keras.

    Args:
        network: a runtime, as `runtimes.open_file` gives.
        fingerprint: str. Changes with anything that could change a feature.
        scales: tuple of float, or None for those that the network names. Sizes of the pyramid's
            levels, 1 being the image itself. Levels with a side under `MIN_SIDE` or of more than
            `MAX_PIXELS` are left out.
        max_features: int.
        spread: bool. Take the features that score no less than their neighbours on the map
            first, and others only where these do not fill `max_features`. False takes the
            highest scores wherever they are, as in the paper.

    Attributes:
        name: `"delf"`.
        descriptor_dim: int.
        score: `"attention"`, or `"activation_norm"` where no attention is trained.
        geometry: the network's `Geometry`.
        scales: tuple of float.
        between_places: bool. Whether a peak may lie between the places of the map; it does where
            the network names its scales, so that an index of before keeps features of one kind.
        fingerprint: str.

    Raises:
        ArgumentError: a scale is not above 0, or `max_features` is under 1.
        BundleError: the network is none for local features.
    """

    name = "delf"

    def __init__(
        self,
        network: runtimes.Network,
        fingerprint: str = "",
        *,
        scales: Sequence[float] | None = None,
        max_features: int = MAX_FEATURES,
        spread: bool = True,
    ) -> None:
        score = {ATTENTION, NORM} & set(network.outputs)
        found = network.inputs.get("image")
        # Runtimes have a name, or None, for a side of any length.
        sides = [side for side in found.shape[:2] if isinstance(side, int)] if found else []
        if (
            set(network.outputs) != {"descriptors", "geometry", *score}
            or len(score) != 1
            or set(network.inputs) != {"image"}
            or found is None
            or (found.dtype, len(found.shape), found.shape[-1]) != ("uint8", 3, 3)
            or len({*sides}) != len(sides) / 2
        ):
            raise BundleError(
                "A network for local features is a file of hashnet.local.delf.export.",
                f"{network.inputs} to {network.outputs}",
            )
        self._network = network
        (self.score,) = score
        self.descriptor_dim = network.outputs["descriptors"].shape[-1] or 0
        self.fingerprint, self.max_features, self.spread = fingerprint, max_features, spread
        self._side = sides[0] if sides else None
        side = self._side or MIN_SIDE
        smallest = np.zeros((1, side, side, 3), np.uint8)
        size, stride, offset, *named = network.run(["geometry"], {"image": smallest})[0].tolist()
        self.between_places = bool(named)
        self.scales = tuple((named or SCALES_BEFORE) if scales is None else scales)
        if not self.scales or not all(0 < s < np.inf for s in self.scales) or max_features < 1:
            raise ArgumentError(
                "Local features come from scales above 0, at least one.",
                f"scales={self.scales}, max_features={max_features}",
            )
        if not (
            1 <= stride <= 1024 and stride == int(stride) and np.isfinite([size, offset]).all()
        ):
            raise BundleError(
                "A network for local features knows its stride.", f"{stride} and {offset} pixels"
            )
        self.geometry = Geometry(int(size), int(stride), offset)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        runtime: str = "auto",
        *,
        num_threads: int | None = None,
        encoder: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> Self:
        """Open an exported network.

        Args:
            path: str or path-like, an ONNX file of `export`.
            runtime, num_threads: as for `runtimes.open_file`.
            encoder: str, path-like or None. The `encoder.onnx` that gives the map, where the file
                is a head alone; None for the one beside it.
            **options: as for the class.

        Returns:
            The opened `Delf`.

        Raises:
            BundleError: the file is missing, damaged or of another kind.
            HashnetError: the runtime is unknown or not installed.
        """
        content = map_files.read(
            path,
            "Local features need their network.",
            "Write it with hashnet.local.delf.export.",
            encoder=encoder,
        )
        network = runtimes.open_bytes(content, path, runtime, num_threads=num_threads)
        return cls(network, hashlib.sha256(content).hexdigest(), **options)

    def extract(self, image: np.ndarray) -> LocalFeatures:
        """Extract the local features of an image.

        Args:
            image: uint8 `(height, width, 3)`, RGB and upright.

        Returns:
            `LocalFeatures`, at most `max_features`. None where every level is too small or too
            large.

        Raises:
            ShapeError: the image is of another dtype or shape.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ShapeError(
                "An image is a uint8 array of shape (height, width, 3).",
                f"{image.dtype} {image.shape}",
            )
        levels = [self._level(image, size) for size in self._sizes(image.shape[:2])]
        empty = np.empty((0, 2)), np.empty((0, self.descriptor_dim)), np.empty(0), np.empty(0)
        yx, descriptors, scores, peaks = (
            np.concatenate([np.float32(part) for part in parts])
            for parts in zip(empty, *levels, strict=True)
        )
        first = peaks if self.spread else np.zeros_like(peaks)
        chosen = np.lexsort((-scores, -first))[: self.max_features]
        best = chosen[np.argsort(-scores[chosen], kind="stable")]
        return LocalFeatures(yx[best], descriptors[best], scores[best])

    def _sizes(self, shape: Sequence[int]) -> list[tuple[int, int]]:
        if self._side:  # of a network for images of one size there is one level
            return [(self._side, self._side)]
        height, width = shape
        sizes = [
            (max(1, round(height * scale)), max(1, round(width * scale))) for scale in self.scales
        ]
        return [size for size in sizes if min(size) >= MIN_SIDE and size[0] * size[1] <= MAX_PIXELS]

    def _level(
        self, image: np.ndarray, size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(yx, descriptors, scores, is a peak) of all places whose centre lies in the image."""
        pixels = image if size == image.shape[:2] else images.resize(image, size)
        stride, offset = self.geometry.stride, self.geometry.offset
        # Up to whole strides, for which the geometry holds, with what the edge looks like.
        missing = [-side % stride for side in size]
        pixels = np.pad(pixels, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
        descriptors, scores = self._network.run(
            ["descriptors", self.score], {"image": pixels[None]}
        )
        centres = [offset + stride * np.arange(count) for count in scores.shape[1:]]
        rows, columns = (
            np.flatnonzero((0 <= centre) & (centre < side))
            for centre, side in zip(centres, size, strict=True)
        )
        scores = scores[0][np.ix_(rows, columns)]
        peaks = _is_peak(scores)
        y, x = np.meshgrid(centres[0][rows], centres[1][columns], indexing="ij")
        yx = np.stack([y, x], axis=-1)
        if self.between_places:
            yx = yx + stride * _tops(scores, peaks)
        # Pixels are squares: their edges coincide at all scales, their centres do not.
        original = np.array(image.shape[:2])
        yx = np.clip((yx + 0.5) * (original / size) - 0.5, 0, original - 1).reshape(-1, 2)
        peaks, scores = peaks.ravel(), scores.ravel()
        descriptors = descriptors[0][np.ix_(rows, columns)].reshape(len(scores), -1)
        known = np.isfinite(scores) & np.isfinite(descriptors).all(axis=1)
        return yx[known], descriptors[known], scores[known], peaks[known]


def _is_peak(scores: np.ndarray) -> np.ndarray:
    """bool, shaped like the scores: whether no neighbour, of up to eight, has a higher score.

    A score that is no number is no peak, and hides none beside it.
    """
    around = np.pad(np.where(np.isnan(scores), -np.inf, scores), 1, constant_values=-np.inf)
    across = np.maximum(np.maximum(around[:, :-2], around[:, 1:-1]), around[:, 2:])
    highest = np.maximum(np.maximum(across[:-2], across[1:-1]), across[2:])
    return np.asarray(scores == highest)


def _tops(scores: np.ndarray, peaks: np.ndarray) -> np.ndarray:
    """float32 `(rows, columns, 2)`: where between places a peak's highest score is to be expected.

    In places, half of one at most: the top of the parabola through it and its neighbours, along
    each axis. 0 of what is no peak, has a neighbour on one side only, or is as high as both.
    """
    tops = np.zeros((*scores.shape, 2), np.float32)
    around = np.pad(scores, 1, constant_values=np.nan)
    for axis in (0, 1):
        before, _, after = (np.roll(around, 1 - way, axis)[1:-1, 1:-1] for way in range(3))
        bend = before + after - 2 * scores
        curved = peaks & (bend < 0) & np.isfinite(bend)
        tops[curved, axis] = ((before - after)[curved]) / (2 * bend[curved])
    return tops
