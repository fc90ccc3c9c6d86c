"""Regions: the parts of an image that stand out, so that a small object in it can be found.

The image goes, at 512 pixels a side or those of a network that takes no others, through the
backbone up to its map, and every place of the map gets a score. A region is a square window of one
of three sizes whose mean score is above that of a ring around it; the best are taken that hardly
overlap. Scores and windows are all there is to it: nothing is learned for regions.

The scores come of an ONNX network, which `export` writes with Keras and `Proposer` runs without.
The `regions.onnx` of an index is the head alone where `encoder.onnx` gives the map: see
`map_files`.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import numpy as np

from hashnet import images
from hashnet.errors import ArgumentError, BundleError, ShapeError
from hashnet.local import map_files
from hashnet.local.delf_head import Head
from hashnet.network import runtimes
from hashnet.network.bundle import Bundle

if TYPE_CHECKING:
    import keras

FILE = "regions.onnx"
SIDE = 512  # pixels, of the image that is scored
# Sides of windows, as parts of the longer side of the image; the shorter one bounds them.
WINDOWS = (1 / 8, 1 / 5, 1 / 3)
MIN_SIDE = 32  # pixels of the original; smaller crops carry little
RING = 0.25  # the width of the ring, as a part of the window's side
OVERLAP = 0.3  # of two regions, at most: what they share, divided by what they cover together


def export(
    path: str | os.PathLike[str],
    backbone: "str | keras.Model" = "efficientnet_lite0",
    head: Head | None = None,
) -> None:
    """Write a backbone up to its map, and the score of its places, as ONNX.

    Args:
        path: str or path-like ending in `.onnx`.
        backbone: as for `map_files.export`.
        head: a `Head`, whose attention is the score, or the length of the map's
            column where it has none. None for the preset of the backbone, whose attention finds
            objects as well or better (tests/bench/regions.py), or, where it has none or is a
            network of yours, for the length.

    Raises:
        UnknownNameError, ArgumentError, WeightsError, ShapeError: as for `map_files.export`.
    """
    # Of one size: so the arrays of the file are of known sizes, as a runtime wants to see.
    map_files.export(path, backbone, head, scores_only=True, size=SIDE)


def export_for(bundle: Bundle, path: str | os.PathLike[str]) -> None:
    """Write what an index of this bundle needs to propose regions, besides its encoder.

    Args:
        bundle: a `Bundle`.
        path: str or path-like ending in `.onnx`.

    Raises:
        ArgumentError, WeightsError: as for `map_files.export_for`.
    """
    map_files.export_for(bundle, path, scores_only=True, size=SIDE)


class Proposer:
    """Proposes regions with an exported network, without Keras.

    Args:
        network: a runtime, as `runtimes.open_file` gives.

    Raises:
        BundleError: the network is none for regions.
    """

    def __init__(self, network: runtimes.Network) -> None:
        image, scores = network.inputs.get("image"), network.outputs.get("scores")
        side = image.shape[0] if image is not None and len(image.shape) == 3 else None
        expected = {"image": runtimes.TensorSpec("uint8", (side, side, 3))}
        if (
            not isinstance(side, int)
            or network.inputs != expected
            or scores is None
            or len(scores.shape) != 2
        ):
            raise BundleError(
                "A network for regions is a file of hashnet.local.regions.export.",
                f"{network.inputs} to {network.outputs}",
            )
        self._network, self._side = network, side

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        runtime: str = "auto",
        *,
        num_threads: int | None = None,
    ) -> Self:
        """Open an exported network.

        Args:
            path: str or path-like, an ONNX file of `export`.
            runtime, num_threads: as for `runtimes.open_file`.

        Raises:
            BundleError: the file is missing, damaged or of another kind.
            HashnetError: the runtime is unknown or not installed.
        """
        content = map_files.read(
            path,
            "Regions need their network.",
            "Write it with hashnet.local.regions.export.",
            size=SIDE,
        )
        return cls(runtimes.open_bytes(content, path, runtime, num_threads=num_threads))

    def propose(self, image: np.ndarray, most: int) -> np.ndarray:
        """The regions of an image, best first.

        Args:
            image: uint8 `(height, width, 3)`, RGB and upright.
            most: int, 1 or more.

        Returns:
            int64 `(r, 4)`, r <= most: top, left, bottom and right in pixels. Of an image whose
            windows would be under 32 pixels there are none.

        Raises:
            ShapeError: the image is of another dtype or shape.
        """
        pixels = images.resize(image, (self._side, self._side))
        [scores] = self._network.run(["scores"], {"image": pixels[None]})
        return best_windows(scores[0], image.shape[:2], most)


def best_windows(scores: np.ndarray, shape: tuple[int, int], most: int) -> np.ndarray:
    """The windows of a map of scores that stand out the most, as regions of its image.

    Args:
        scores: float `(rows, columns)`, of an image of any shape.
        shape: (height, width) of the image in pixels.
        most: int, 1 or more.

    Returns:
        As for `Proposer.propose`: by falling contrast, and among equals small windows before
        large ones and then from the top left on.

    Raises:
        ShapeError: the scores are no map.
        ArgumentError: `most` is not 1 or more.

    Example:
        >>> scores = np.zeros((32, 32))
        >>> scores[8:12, 20:24] = 1
        >>> best_windows(scores, (640, 640), most=1).tolist()
        [[160, 400, 240, 480]]
    """
    if np.ndim(scores) != 2 or not np.size(scores):
        raise ShapeError("Scores are a map, (rows, columns).", f"shape {np.shape(scores)}")
    if most < 1:
        raise ArgumentError("An image has 1 region or more.", f"most={most}")
    scores = np.where(np.isfinite(scores), scores, 0).astype(np.float64)
    # Sums over windows are differences of sums from the top left on.
    sums = np.pad(scores, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    contrasts: list[np.ndarray] = [np.empty(0)]
    windows: list[np.ndarray] = [np.empty((0, 4), np.int64)]
    for part in WINDOWS:
        side = min(part * max(shape), *shape)
        if side < MIN_SIDE:
            continue
        size = [
            max(1, round(side / length * count))
            for length, count in zip(shape, scores.shape, strict=True)
        ]
        contrast, window = _contrasts(sums, size)
        contrasts.append(contrast)
        windows.append(window)
    # Rounded, so that the last bits of sums do not decide between windows that are alike.
    contrast = np.round(np.concatenate(contrasts), 9)
    order = np.argsort(-contrast, kind="stable")
    return _in_pixels(_apart(np.concatenate(windows)[order], most), scores.shape, shape)


def _contrasts(sums: np.ndarray, size: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Mean inside minus mean of the ring, and (top, left, bottom, right), of windows of a size."""
    rows, columns = np.array(sums.shape) - 1
    top, left = (
        axis.ravel()
        for axis in np.meshgrid(
            np.arange(rows - size[0] + 1), np.arange(columns - size[1] + 1), indexing="ij"
        )
    )
    bottom, right = top + size[0], left + size[1]
    width = [max(1, round(RING * side)) for side in size]
    outer = (
        np.maximum(top - width[0], 0),
        np.maximum(left - width[1], 0),
        np.minimum(bottom + width[0], rows),
        np.minimum(right + width[1], columns),
    )
    inside, around = _sum(sums, top, left, bottom, right), _sum(sums, *outer)
    area = size[0] * size[1]
    ring = (outer[2] - outer[0]) * (outer[3] - outer[1]) - area
    contrast = inside / area - (around - inside) / np.maximum(ring, 1)
    return contrast, np.stack([top, left, bottom, right], axis=1)


def _sum(
    sums: np.ndarray, top: np.ndarray, left: np.ndarray, bottom: np.ndarray, right: np.ndarray
) -> np.ndarray:
    return sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]


def _apart(windows: np.ndarray, most: int) -> np.ndarray:
    """The first windows, up to `most`, of those that hardly overlap an earlier one."""
    kept: list[np.ndarray] = []
    while len(windows) and len(kept) < most:
        first = windows[0]
        kept.append(first)
        sides = np.minimum(windows[:, 2:], first[2:]) - np.maximum(windows[:, :2], first[:2])
        shared = np.maximum(sides, 0).prod(axis=1)
        together = _area(windows) + _area(first) - shared
        windows = windows[shared <= OVERLAP * together]
    return np.array(kept, np.int64).reshape(-1, 4)


def _area(windows: np.ndarray) -> np.ndarray:
    return (windows[..., 2:] - windows[..., :2]).prod(axis=-1)


def _in_pixels(windows: np.ndarray, places: tuple[int, ...], shape: tuple[int, int]) -> np.ndarray:
    scale = np.divide(shape, places)
    return np.rint(windows * np.concatenate([scale, scale])).astype(np.int64)
