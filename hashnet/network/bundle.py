"""The bundle: a folder with a hash network and where it came from.

    hashnet.json    architecture, classes, origin, format version, checksums of the other two, and
                    the precision to encode in, where that is not float32
    model.keras     the network, for any Keras user; we take only the weights from it
    encoder.onnx    the network as searching runs it, without Keras

An index carries a bundle without `model.keras`, unless `encoder.onnx` does not hold the same
weights: one of int8 does not, nor does one of the time before `onnx_writer`.

A bundle is written beside its place and then renamed, so it is there whole or not at all.
"""

import hashlib
import json
import os
import pathlib
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hashnet import files
from hashnet.errors import BundleError
from hashnet.network import onnx_check, onnx_graph, onnx_writer
from hashnet.network.model import HashNetConfig

if TYPE_CHECKING:
    import keras

Path = str | os.PathLike[str]

# Bundles of float32 are written as version 1. Who knows no other precision must not open others.
FORMAT_VERSION = 2
PRECISIONS = ("float32", "bfloat16", "int8")
DESCRIPTION, MODEL, ENCODER = "hashnet.json", "model.keras", "encoder.onnx"

# An index carries its bundle in this folder.
INSIDE_AN_INDEX = "encoder"


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk, opened and checked.

    Attributes:
        folder: pathlib.Path.
        config: the `HashNetConfig` to build the network again.
        origin: dict. How it was made: command, and what else its maker noted.
        fingerprint: str, 64 hex digits. Changes with anything that could change a code.
        precision: str, one of `PRECISIONS`. What `encoder_file` is to be run in.
    """

    folder: pathlib.Path
    config: HashNetConfig
    origin: dict[str, Any]
    fingerprint: str
    precision: str = "float32"

    @property
    def encoder_file(self) -> pathlib.Path:
        """Path of the ONNX file, its checksum verified when the bundle was opened."""
        return self.folder / ENCODER

    def files(self) -> dict[str, pathlib.Path]:
        """dict of name to path: all that an index must copy to carry this bundle."""
        weights = () if self._encoder_has_weights else (MODEL,)
        return {name: self.folder / name for name in (DESCRIPTION, *weights, ENCODER)}

    @property
    def _encoder_has_weights(self) -> bool:
        with open(self.encoder_file, "rb") as file:
            return self.precision != "int8" and onnx_writer.is_ours(file.read(64))

    def load_model(self) -> "keras.Model":
        """Build the network and fill it with the stored weights; no stored code is run.

        Returns:
            A `keras.Model`, as from `model.build`.

        Raises:
            BundleError: the stored weights do not fit the stored description.
        """
        from hashnet.network import keras_check
        from hashnet.network.model import build

        if not (self.folder / MODEL).exists() and self._encoder_has_weights:
            content = self.encoder_file.read_bytes()
            onnx_check.check(content, self.encoder_file)
            model = build(self.config, weights=None)
            onnx_writer.restore(model, onnx_graph.parsed(content, self.encoder_file))
            return model
        _verify(self.folder / MODEL, _read_description(self.folder)["sha256"][MODEL])
        model = build(self.config, weights=None)
        try:
            keras_check.check(self.folder / MODEL, model)
            with warnings.catch_warnings():
                # Keras names containers that hold nothing of their own; what is missing it raises.
                warnings.simplefilter("ignore")
                model.load_weights(self.folder / MODEL)
        except Exception as error:  # h5py and keras raise as many kinds as a file can be broken
            raise BundleError(
                "A bundle's weights must fit its description.",
                f"{self.folder / MODEL}: {error}",
            ) from error
        return model


def save(
    folder: Path, model: "keras.Model", config: HashNetConfig, *, origin: dict[str, Any]
) -> Bundle:
    """Write a network as a bundle, replacing the bundle that may be there.

    Args:
        folder: str or path-like. Must not exist, or be a bundle or an empty folder.
        model: a `keras.Model` from `hashnet.network.model.build(config)`.
        config: its `HashNetConfig`.
        origin: dict that JSON can hold: the command, and what else should be known later.

    Returns:
        The `Bundle`, opened.

    Raises:
        BundleError: `folder` holds something else.
    """

    def fill(beside: pathlib.Path) -> dict[str, Any]:
        model.save(beside / MODEL)
        (beside / ENCODER).write_bytes(onnx_writer.write(model, ("latent", "feature", "scores")))
        return {"format_version": 1, "network": config.to_dict(), "origin": origin}

    return _write(folder, fill)


def save_precision(
    folder: Path, source: Bundle, encoder: bytes, precision: str, *, origin: dict[str, Any]
) -> Bundle:
    """Write a bundle of the same network that encodes in another precision.

    Args:
        folder: as for `save`.
        source: the `Bundle` whose network it is.
        encoder: bytes of the ONNX file.
        precision: str, one of `PRECISIONS` other than float32.
        origin: as for `save`.

    Returns:
        The `Bundle`, opened.

    Raises:
        BundleError: `folder` holds something else.
    """

    def fill(beside: pathlib.Path) -> dict[str, Any]:
        if (source.folder / MODEL).exists():
            shutil.copyfile(source.folder / MODEL, beside / MODEL)
        else:
            source.load_model().save(beside / MODEL)
        (beside / ENCODER).write_bytes(encoder)
        return {
            "format_version": FORMAT_VERSION,
            "precision": precision,
            "network": source.config.to_dict(),
            "origin": origin,
        }

    return _write(folder, fill)


def _write(folder: Path, fill: Callable[[pathlib.Path], dict[str, Any]]) -> Bundle:
    """Let `fill` put the files into a folder beside `folder` and describe them; then rename."""
    folder = pathlib.Path(folder)
    if folder.exists() and not _may_replace(folder):
        raise BundleError(
            "A bundle replaces only a bundle or an empty folder.", str(folder), "Give a new name."
        )
    with files.whole_folder(folder) as beside:
        description = fill(beside)
        description["sha256"] = {name: _sha256(beside / name) for name in (MODEL, ENCODER)}
        text = json.dumps(description, indent=1, ensure_ascii=True)
        (beside / DESCRIPTION).write_text(text + "\n", encoding="ascii")
    return load(folder)


def load(folder: Path) -> Bundle:
    """Open a bundle, or the bundle that an index carries, and check it.

    Args:
        folder: str or path-like.

    Returns:
        A `Bundle`.

    Raises:
        BundleError: it is missing, damaged, or of a newer format.

    Example:
        >>> load(bundle_folder).config.num_bits
        32
    """
    folder = pathlib.Path(folder)
    if not (folder / DESCRIPTION).is_file() and (folder / INSIDE_AN_INDEX).is_dir():
        folder = folder / INSIDE_AN_INDEX
    description = _read_description(folder)
    encoder_sum = description["sha256"][ENCODER]
    _verify(folder / ENCODER, encoder_sum)
    config = HashNetConfig.from_dict(description["network"])
    precision = description.get("precision", "float32")
    essence = [config.to_dict(), encoder_sum]
    if precision != "float32":
        essence.append(precision)
    fingerprint = hashlib.sha256(json.dumps(essence, sort_keys=True).encode()).hexdigest()
    return Bundle(folder, config, description["origin"], fingerprint, precision)


def _read_description(folder: pathlib.Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    try:
        with open(path, "rb") as file:
            description = json.loads(file.read(10_000_000))
        if description["format_version"] > FORMAT_VERSION:
            raise BundleError(
                f"This HashNet reads bundles up to format {FORMAT_VERSION}.",
                f"format {description['format_version']} in {path}",
                "Upgrade: pip install -U hashnet",
            )
        sums = description["sha256"]
        if not isinstance(sums[MODEL], str) or not isinstance(sums[ENCODER], str):
            raise TypeError("sha256 is no text")
        if not isinstance(description["origin"], dict):
            raise TypeError("origin is no dictionary")
        if description.get("precision", "float32") not in PRECISIONS:
            raise ValueError(f"precision {description['precision']!r}")
        description["network"]
    except BundleError:
        raise
    except OSError as error:
        raise BundleError(
            f"A bundle is a folder with a {DESCRIPTION}.", f"{folder} ({error.strerror})"
        ) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(f"{DESCRIPTION} must be whole.", f"{path}: {error!r}") from error
    return description


def _may_replace(folder: pathlib.Path) -> bool:
    return folder.is_dir() and ((folder / DESCRIPTION).is_file() or not any(folder.iterdir()))


def _verify(path: pathlib.Path, expected: str) -> None:
    if not path.is_file():
        raise BundleError("A bundle must hold all its files.", f"no {path}")
    if _sha256(path) != expected:
        raise BundleError(
            "A bundle's files must be as they were written.",
            f"{path} has changed since",
            "Copy the bundle again, or train it again.",
        )


def _sha256(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
