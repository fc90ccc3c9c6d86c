"""What reads the text in a picture: a network that finds its lines, and one that reads each.

The networks are PP-OCRv4's (Apache-2.0), for Chinese and English, in the package
rapidocr-onnxruntime; only its two files are taken, by their very bytes, and none of its code.
"""

import functools
import hashlib
import importlib.util
import pathlib
from typing import NamedTuple

import numpy as np

from hashnet import images
from hashnet.errors import WeightsError
from hashnet.local.packaged import Package
from hashnet.network import runtimes
from hashnet.ocr import detection, recognition
from hashnet.ocr.recognition import pyramid_of, readings, strip_of

NAME = "pp-ocrv4"  # as indexes keep it
_PACKAGE = Package("rapidocr-onnxruntime>=1.4.4", "rapidocr_onnxruntime")
# Its files, and how their sums begin: what they compute is the same wherever they come from.
_FILES = {
    "ch_PP-OCRv4_det_infer.onnx": "d2a7720d45a54257208b1e13e36a8479",
    "ch_PP-OCRv4_rec_infer.onnx": "48fc40f24f6d2a207a2b1091d3437eb3",
}

# Pixels of the shorter side of what lines are looked for in, and of the longer one at most: also
# of small pictures, whose letters are then of the sizes that the network knows.
SHORT_SIDE, LONG_SIDE = 736, 1312
# Lines that are read in a picture, the largest: each costs some 15 ms of one core.
MOST_LINES = 32
LEAST_CONFIDENCE = 0.5
_STEP = 32  # sides that the first network takes are multiples of this


class ReadLine(NamedTuple):
    """One line of text in a picture.

    Attributes:
        text: str.
        region: (top, left, bottom, right) in pixels of the picture.
        confidence: float, 0 to 1.
    """

    text: str
    region: tuple[int, int, int, int]
    confidence: float


class Reader:
    """Reads the text in pictures. Safe to use from several threads; each call uses one core.

    Args:
        detector, recognizer: opened networks of one input and one output.
        letters: list of str, which the second names.
    """

    def __init__(
        self, detector: runtimes.Network, recognizer: runtimes.Network, letters: list[str]
    ) -> None:
        self._detector, self._recognizer, self._letters = detector, recognizer, letters

    @classmethod
    def open(cls) -> "Reader":
        """Open the networks of the installed package.

        Returns:
            `Reader`.

        Raises:
            WeightsError: it is not installed, or its files are others.
        """
        detector, recognizer = (_content(name) for name in _FILES)
        return cls(
            runtimes.open_own(detector, "pp-ocrv4 detection"),
            runtimes.open_own(recognizer, "pp-ocrv4 recognition"),
            _letters(recognizer),
        )

    def read(self, image: np.ndarray) -> list[ReadLine]:
        """Read the lines of a picture.

        Args:
            image: uint8 `(height, width, 3)`, RGB and upright.

        Returns:
            list of `ReadLine`, from the top; of the largest lines, and those that it is sure of.
        """
        lines = []
        boxes = self.find(image)
        pyramid = pyramid_of(image) if boxes else []
        height, width = image.shape[:2]
        for box in boxes:
            text, confidence = max(
                (self._text(pyramid, one) for one in readings(box)), key=lambda read: read[1]
            )
            top, left = np.floor(box.min(axis=0)).astype(int).tolist()
            bottom, right = np.ceil(box.max(axis=0)).astype(int).tolist()
            region = max(top, 0), max(left, 0), min(bottom, height), min(right, width)
            is_there = region[0] < region[2] and region[1] < region[3]
            if text.strip() and confidence >= LEAST_CONFIDENCE and is_there:
                lines.append(ReadLine(text.strip(), region, round(min(confidence, 1.0), 4)))
        return sorted(lines, key=lambda line: line.region)

    def _text(self, pyramid: list[np.ndarray], box: np.ndarray) -> tuple[str, float]:
        [scores] = _run(self._recognizer, strip_of(pyramid, box))
        return recognition.decoded(scores[0], self._letters)

    def find(self, image: np.ndarray) -> list[np.ndarray]:
        """Find the lines of a picture, without reading them.

        Args:
            image: uint8 `(height, width, 3)`.

        Returns:
            list of float64 `(4, 2)`, as `detection.boxes_of`, in pixels of the picture.
        """
        sides = image.shape[:2]
        scale = min(SHORT_SIDE / min(sides), LONG_SIDE / max(sides))
        size = tuple(max(1, round(length * scale / _STEP)) * _STEP for length in sides)
        small = images.resize(image, size)
        pixels = small[None, :, :, ::-1].transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
        [likelihood] = _run(self._detector, np.ascontiguousarray(pixels))
        boxes = detection.boxes_of(likelihood[0, 0], MOST_LINES)
        return [box * np.divide(sides, size) for box in boxes]


def _run(network: runtimes.Network, pixels: np.ndarray) -> list[np.ndarray]:
    [given], [wanted] = network.inputs, network.outputs
    return network.run([wanted], {given: pixels})


def require() -> None:
    """Refuse before work what would be missing after it.

    Raises:
        WeightsError: the package of the networks is not installed, or its files are others.
    """
    for name in _FILES:
        _content(name)


@functools.cache
def _content(name: str) -> bytes:
    found = importlib.util.find_spec(_PACKAGE.module)
    if found is None or not found.submodule_search_locations:
        raise _missing(f"no {_PACKAGE.module}")
    path = pathlib.Path(found.submodule_search_locations[0], "models", name)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _missing(f"{path}: {error.strerror}") from error
    if not hashlib.sha256(content).hexdigest().startswith(_FILES[name]):
        raise _missing(f"{path}, of another version")
    return content


def _missing(what: str) -> WeightsError:
    return WeightsError(
        "Text in pictures is read by networks from a package of their own.",
        what,
        f"Install it: {_PACKAGE.command}",
    )


def _letters(recognizer: bytes) -> list[str]:
    """What the network names, which its file lists; blanks come last, and are not listed."""
    import onnx

    properties = onnx.load_model_from_string(recognizer).metadata_props
    [listed] = [one.value for one in properties if one.key == "character"]
    return [*listed.split("\n"), " "]
