"""The TOML beside a network of one's own: what its images are, and which of its arrays count."""

import os
import pathlib
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import numpy as np

from hashnet import files
from hashnet.errors import ArgumentError, WeightsError

MAX_IMAGE_SIZE = 2048
CHANNELS, LAYOUTS = ("rgb", "bgr"), ("nchw", "nhwc")


@dataclass(frozen=True)
class Settings:
    """How a network of one's own takes images, and what of it is wanted.

    Attributes:
        image_size: int. Side in pixels of the square images that it takes.
        feature: str. Name of F7, float32, in the network, or of the layer that gives it.
        map: str or None. Name of what local features and regions are taken from, in the network's
            own layout.
        mean, std: three numbers each, of pixels in 0..1 in the network's order of channels; or
            None.
        range: two numbers, what black and white become; instead of `mean` and `std`.
        channels: str, one of `CHANNELS`, the order in which the network takes them.
        layout: str, one of `LAYOUTS`; None for the usual one, `"nchw"` in ONNX and `"nhwc"` in
            Keras.

    Raises:
        ArgumentError: a value is out of its range.

    Example:
        >>> settings = Settings(224, "feature", range=(-1, 1))
        >>> settings.scale_and_offset()[0].round(6).tolist()
        [0.007843, 0.007843, 0.007843]
    """

    image_size: int
    feature: str
    map: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    range: tuple[float, ...] | None = None
    channels: str = "rgb"
    layout: str | None = None

    def __post_init__(self) -> None:
        for name, length in (("mean", 3), ("std", 3), ("range", 2)):
            value = getattr(self, name)
            if value is not None:
                if not _are_numbers(value, length):
                    raise ArgumentError(f"{name} is {length} numbers.", repr(value))
                object.__setattr__(self, name, tuple(map(float, value)))
        if (self.mean is None) != (self.std is None) or (self.mean is None) == (self.range is None):
            raise ArgumentError(
                "Pixels are scaled by mean and std, or to a range.",
                f"mean={self.mean}, std={self.std}, range={self.range}",
                "range = [0, 255] leaves them as they are.",
            )
        if self.std is not None and min(self.std) <= 0:
            raise ArgumentError("std is above 0.", repr(self.std))
        if type(self.image_size) is not int or not 32 <= self.image_size <= MAX_IMAGE_SIZE:
            raise ArgumentError(
                f"image_size is 32 to {MAX_IMAGE_SIZE} pixels.", repr(self.image_size)
            )
        if not isinstance(self.feature, str) or not isinstance(self.map, str | None):
            raise ArgumentError("feature and map are names.", f"{self.feature!r}, {self.map!r}")
        for name, known in (("channels", CHANNELS), ("layout", LAYOUTS)):
            if getattr(self, name) not in (*known, *([None] if name == "layout" else [])):
                raise ArgumentError(
                    f"{name} is one of {', '.join(known)}.", repr(getattr(self, name))
                )

    @classmethod
    def beside(cls, path: str | os.PathLike[str]) -> Self:
        """The settings in the TOML beside a file, of the same name but for its ending.

        Args:
            path: str or path-like, of the network.

        Returns:
            `Settings`.

        Raises:
            WeightsError: there is no such TOML, or it says something else.
        """
        values = read(path)
        values.pop("text", None)  # the table of `own_text`
        try:
            return cls.from_dict(values)
        except (ArgumentError, TypeError) as error:
            raise _wrong(path, error) from error

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The settings that a dictionary holds.

        Args:
            values: dict, as TOML or JSON gives it.

        Returns:
            `Settings`.

        Raises:
            ArgumentError: a value is out of its range, or a name unknown.
        """
        known = [field.name for field in fields(cls)]
        if unknown := set(values) - set(known):
            raise ArgumentError(
                "A network of yours is described by known settings.",
                ", ".join(sorted(unknown)),
                f"They are: {', '.join(known)}.",
            )
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """dict that `from_dict` takes back and JSON can hold."""
        values = {name: value for name, value in asdict(self).items() if value is not None}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
        }

    def scale_and_offset(self) -> tuple[np.ndarray, np.ndarray]:
        """What pixels in 0..255 are multiplied by, and what is added then.

        Returns:
            Two float64 `(3,)`, in the network's order of channels.
        """
        if self.range is not None:
            low, high = self.range
            return np.full(3, (high - low) / 255), np.full(3, low)
        assert self.mean is not None and self.std is not None  # checked when it was made
        mean, std = np.array(self.mean), np.array(self.std)
        return 1 / (255 * std), -mean / std


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What the TOML beside a file says, of the same name but for its ending.

    Args:
        path: str or path-like, of the network.

    Returns:
        dict.

    Raises:
        WeightsError: there is no such TOML, or it is none.
    """
    beside = _toml(path)
    try:
        return files.read_toml(beside)
    except OSError as error:
        raise WeightsError(
            "Beside a network of yours lies a TOML with its image_size, feature and scaling.",
            f"{beside} ({error.strerror})",
            'Write one, such as: image_size = 224, feature = "output", range = [0, 1].',
        ) from error
    except ValueError as error:
        raise _wrong(path, error) from error


def _toml(path: str | os.PathLike[str]) -> pathlib.Path:
    return pathlib.Path(path).with_suffix(".toml")


def _wrong(path: str | os.PathLike[str], error: Exception) -> WeightsError:
    return WeightsError("The TOML beside a network must be right.", f"{_toml(path)}: {error}")


def _are_numbers(value: object, length: int) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == length
        and all(isinstance(one, int | float) and not isinstance(one, bool) for one in value)
        and bool(np.isfinite(value).all())
    )
