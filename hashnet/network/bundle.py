"""The bundle: a folder with a hash network and where it came from.

    hashnet.json    architecture, classes, origin, format version, checksums of the others, the
                    precision to encode in, where that is not float32, and the mean feature of the
                    photos that H was made from, where it is known
    encoder.onnx    the network as searching runs it, without Keras
    model.keras     the network, for any Keras user, where Keras made it; we take only the weights
    float32.onnx    the network before it was converted to int8, where Keras did not make it
    text.onnx, tokenizer.json   the text network that shares its space, where it came with one

An index carries a bundle without `model.keras`, unless `encoder.onnx` does not hold the same
weights: one of int8 does not, nor does one of the time before `onnx_writer`.

A bundle is written beside its place and then renamed, so it is there whole or not at all.
"""

import base64
import hashlib
import json
import os
import pathlib
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from hashnet import files
from hashnet.errors import ArgumentError, BundleError
from hashnet.network import onnx_check, onnx_graph, onnx_writer, own_onnx, own_text
from hashnet.network.model import HashNetConfig
from hashnet.network.own_text import TextPart, TextSettings

if TYPE_CHECKING:
    import keras

Path = str | os.PathLike[str]

# Version 1 is of float32 and has a model.keras, 2 is of another precision, 3 has no model.keras,
# 4 has a backbone of one's own, 5 an embedding: who does not know these must not open them.
FORMAT_VERSION = 5
_WITHOUT_MODEL, _OWN_BACKBONE = 3, 4
PRECISIONS = ("float32", "bfloat16", "int8")
DESCRIPTION, MODEL, ENCODER = "hashnet.json", "model.keras", "encoder.onnx"
FLOAT32 = "float32.onnx"

# An index carries its bundle in this folder.
INSIDE_AN_INDEX = "encoder"
LABEL_FREE = "label-free"  # what the origin says of codes that were fitted without labels


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk, opened and checked.

    Attributes:
        folder: pathlib.Path.
        config: the `HashNetConfig` to build the network again.
        origin: dict. How it was made: command, and what else its maker noted.
        fingerprint: str, 64 hex digits. Changes with anything that could change a code.
        precision: str, one of `PRECISIONS`. What `encoder_file` is to be run in.
        mean: float32 `(feature_dim,)`, the mean feature of the photos that H was fitted to or
            trained on; None in bundles of before it was kept. Searching ranks about it; no code
            and no stored feature depends on it.
        sha256: dict of a file's name to its checksum, as hex.
        text: `TextSettings` of the text network that it carries, or None.
    """

    folder: pathlib.Path
    config: HashNetConfig
    origin: dict[str, Any]
    fingerprint: str
    precision: str = "float32"
    mean: np.ndarray | None = field(default=None, compare=False, repr=False)
    sha256: dict[str, str] = field(default_factory=dict, compare=False, repr=False)
    text: TextSettings | None = field(default=None, compare=False)

    @property
    def encoder_file(self) -> pathlib.Path:
        """Path of the ONNX file, for messages: `encoder_bytes` reads it."""
        return self.folder / ENCODER

    def encoder_bytes(self) -> bytes:
        """The ONNX file, verified each time: networks of it are opened when they are first used.

        Raises:
            BundleError: it is missing or has changed.
        """
        return self._verified_bytes(ENCODER)

    def _verified_bytes(self, name: str) -> bytes:
        path = self.folder / name
        content = path.read_bytes() if path.is_file() else None
        if content is None or hashlib.sha256(content).hexdigest() != self.sha256.get(name):
            raise _changed(path)
        return content

    def files(self) -> dict[str, pathlib.Path]:
        """dict of name to path: all that an index must copy to carry this bundle."""
        weights = self._weights
        names: tuple[str, ...] = (DESCRIPTION, ENCODER)
        if weights != ENCODER:
            names += (weights,)
        if self.text is not None:
            names += (own_text.NETWORK, own_text.TOKENIZER)
        return {name: self.folder / name for name in names}

    def text_part(self) -> TextPart | None:
        """The text network that it carries, verified; None where it has none.

        Returns:
            `TextPart` or None.

        Raises:
            BundleError: a file is missing or has changed.
        """
        if self.text is None:
            return None
        contents = (self._verified_bytes(name) for name in (own_text.NETWORK, own_text.TOKENIZER))
        return TextPart(self.text, *contents)

    @property
    def is_label_free(self) -> bool:
        """bool. Whether no layer learned from labels but those that were pretrained."""
        return self.origin.get("codes") == LABEL_FREE and not self.config.embedding

    @property
    def fits_codes(self) -> bool:
        """bool. Whether H was fitted to features alone, so that it can be to those of an index.

        An embedding learns from labels; H behind it does not.
        """
        return self.is_label_free or self.config.embedding > 0

    @property
    def _weights(self) -> str:
        """The file that holds the weights of float32: an ONNX file of ours, or `model.keras`."""
        if self.precision == "int8":
            return FLOAT32 if FLOAT32 in self.sha256 else MODEL
        with open(self.encoder_file, "rb") as file:
            return ENCODER if onnx_writer.is_ours(file.read(64)) else MODEL

    def float32_encoder(self) -> bytes | None:
        """The ONNX file of the network in float32; None where only `model.keras` has the weights.

        Raises:
            BundleError: it is missing or has changed.
        """
        weights = self._weights
        if weights == MODEL:
            return None
        return self._verified_bytes(weights)

    def load_model(self) -> "keras.Model":
        """Build the network and fill it with the stored weights; no stored code is run.

        Returns:
            A `keras.Model`, as from `model.build`.

        Raises:
            BundleError: the stored weights do not fit the stored description.
            HashnetError: Keras is not installed.
        """
        from hashnet.network import keras_check
        from hashnet.network.model import build

        model = build(self.config, weights=None)
        content = None if (self.folder / MODEL).exists() else self.float32_encoder()
        if content is not None:
            path = self.folder / self._weights
            onnx_check.check(content, path)
            network, own = onnx_graph.parsed(content, path), self.config.own
            if (
                own is None
                or own["kind"] != own_onnx.KIND
                or not own_onnx.restore(model, network, own)
            ):
                onnx_writer.restore(model, network)
            return model
        _verify(self.folder / MODEL, self.sha256.get(MODEL, ""))
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
    folder: Path,
    model: "keras.Model",
    config: HashNetConfig,
    *,
    origin: dict[str, Any],
    mean: np.ndarray | None = None,
) -> Bundle:
    """Write a network as a bundle, replacing the bundle that may be there.

    Args:
        folder: str or path-like. Must not exist, or be a bundle or an empty folder.
        model: a `keras.Model` from `hashnet.network.model.build(config)`.
        config: its `HashNetConfig`.
        origin: dict that JSON can hold: the command, and what else should be known later.
        mean: float array `(feature_dim,)`, see `Bundle`; or None.

    Returns:
        The `Bundle`, opened.

    Raises:
        BundleError: `folder` holds something else.
    """

    def fill(beside: pathlib.Path) -> dict[str, Any]:
        model.save(beside / MODEL)
        (beside / ENCODER).write_bytes(onnx_writer.write(model, config.outputs))
        return {"format_version": _version(1, config), **_described(config, origin, mean)}

    return _write(folder, fill)


def save_encoder(
    folder: Path,
    encoder: bytes,
    config: HashNetConfig,
    *,
    origin: dict[str, Any],
    mean: np.ndarray | None = None,
    text: TextPart | None = None,
) -> Bundle:
    """Write a network that is known as ONNX as a bundle, without Keras and without `model.keras`.

    Args:
        folder: as for `save`.
        encoder: bytes of the ONNX file, as `onnx_writer` makes them.
        config, origin, mean: as for `save`.
        text: `TextPart`, whose vectors lie among the network's features; or None.

    Returns:
        The `Bundle`, opened.

    Raises:
        BundleError: `folder` holds something else, or Keras could not have the weights back from
            this file.
    """
    if not onnx_writer.is_ours(encoder):
        raise BundleError("A network without Keras's file is an ONNX file of ours.", str(folder))

    def fill(beside: pathlib.Path) -> dict[str, Any]:
        (beside / ENCODER).write_bytes(encoder)
        version = _version(_WITHOUT_MODEL, config)
        described = {"format_version": version, **_described(config, origin, mean)}
        return described | _with_text(beside, text)

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
        version, float32 = 2, None
        # Codes of an embedding are fitted again, which takes the ONNX file of float32.
        if (source.folder / MODEL).exists() and not source.config.embedding:
            shutil.copyfile(source.folder / MODEL, beside / MODEL)
        else:
            version, float32 = _WITHOUT_MODEL, source.float32_encoder()
        (beside / ENCODER).write_bytes(encoder)
        if float32 is not None and not onnx_writer.is_ours(encoder):
            (beside / FLOAT32).write_bytes(float32)
        return {
            "format_version": _version(version, source.config),
            "precision": precision,
            **_described(source.config, origin, source.mean),
            **_with_text(beside, source.text_part()),
        }

    return _write(folder, fill)


def _version(least: int, config: HashNetConfig) -> int:
    """The format version of a bundle that needs `least` but for its network."""
    if config.embedding:
        return FORMAT_VERSION
    return least if config.own is None else _OWN_BACKBONE


def _described(
    config: HashNetConfig, origin: dict[str, Any], mean: np.ndarray | None
) -> dict[str, Any]:
    described = {"network": config.to_dict(), "origin": origin}
    if mean is None:
        return described
    content = np.asarray(mean, "<f4").tobytes()
    return {**described, "mean": base64.b64encode(content).decode("ascii")}


def _with_text(beside: pathlib.Path, text: TextPart | None) -> dict[str, Any]:
    """Write the text network of a bundle; what its description says of it."""
    if text is None:
        return {}
    for name, content in text.files().items():
        (beside / name).write_bytes(content)
    return {"text": text.settings.to_dict()}


def _write(folder: Path, fill: Callable[[pathlib.Path], dict[str, Any]]) -> Bundle:
    """Let `fill` put the files into a folder beside `folder` and describe them; then rename."""
    folder = pathlib.Path(folder)
    if folder.exists() and not _may_replace(folder):
        raise BundleError(
            "A bundle replaces only a bundle or an empty folder.", str(folder), "Give a new name."
        )
    with files.whole_folder(folder) as beside:
        description = fill(beside)
        written = sorted(path.name for path in beside.iterdir())
        description["sha256"] = {name: _sha256(beside / name) for name in written}
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
    sums = description["sha256"]
    _verify(folder / ENCODER, sums[ENCODER])
    config = HashNetConfig.from_dict(description["network"])
    precision = description.get("precision", "float32")
    essence = [config.to_dict(), sums[ENCODER]]
    if precision != "float32":
        essence.append(precision)
    fingerprint = hashlib.sha256(json.dumps(essence, sort_keys=True).encode()).hexdigest()
    mean = _mean_of(description, config.feature_dim, folder)
    text = _text_of(description, folder)
    return Bundle(folder, config, description["origin"], fingerprint, precision, mean, sums, text)


def _text_of(description: dict[str, Any], folder: pathlib.Path) -> TextSettings | None:
    if "text" not in description:
        return None
    try:
        return TextSettings.from_dict(description["text"])
    except ArgumentError as error:
        raise BundleError(f"{DESCRIPTION} must be whole.", f"{folder}: {error}") from error


def _mean_of(
    description: dict[str, Any], feature_dim: int, folder: pathlib.Path
) -> np.ndarray | None:
    if "mean" not in description:
        return None
    try:
        content = base64.b64decode(description["mean"], validate=True)
        mean = np.frombuffer(content, "<f4").astype(np.float32)
    except (ValueError, TypeError):
        mean = np.empty(0, np.float32)
    # Of vectors of length 1 no mean is longer, but for rounding.
    if mean.shape != (feature_dim,) or not mean @ mean < 1 + 1e-3:
        raise BundleError(
            f"A bundle's mean is that of features of {feature_dim} numbers and of length 1.",
            f"another in {folder / DESCRIPTION}",
            "Copy the bundle again.",
        )
    return mean


def _read_description(folder: pathlib.Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    try:
        with open(path, "rb") as file:
            description = json.loads(file.read(10_000_000), parse_constant=_no_number)
        version = description["format_version"]
        if type(version) is not int or version < 1:
            raise ValueError(f"format_version {version!r}")
        if version > FORMAT_VERSION:
            raise BundleError(
                f"This HashNet reads bundles up to format {FORMAT_VERSION}.",
                f"format {version} in {path}",
                "Upgrade: pip install -U hashnet",
            )
        sums = description["sha256"]
        has_model = version < _WITHOUT_MODEL
        needed = {MODEL, ENCODER} if has_model else {ENCODER}
        if not all(isinstance(sums[name], str) for name in needed | {*sums}):
            raise TypeError("sha256 is no text")
        if not isinstance(description["origin"], dict):
            raise TypeError("origin is no dictionary")
        if not isinstance(description.get("precision", "float32"), str):
            raise TypeError("precision is no text")
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


def _no_number(name: str) -> None:
    """NaN and infinities, which Python reads and JSON does not have."""
    raise ValueError(f"{name} is no number of JSON")


def _may_replace(folder: pathlib.Path) -> bool:
    return folder.is_dir() and ((folder / DESCRIPTION).is_file() or not any(folder.iterdir()))


def _verify(path: pathlib.Path, expected: str) -> None:
    if not path.is_file() or _sha256(path) != expected:
        raise _changed(path)


def _changed(path: pathlib.Path) -> BundleError:
    if not path.is_file():
        return BundleError("A bundle must hold all its files.", f"no {path}")
    return BundleError(
        "A bundle's files must be as they were written.",
        f"{path} has changed since",
        "Copy the bundle again, or train it again.",
    )


def _sha256(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
