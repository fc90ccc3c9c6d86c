"""A text network of one's own, beside an image network that shares its space, as CLIP's are.

A table `[text]` in the TOML of the image network names the files: an ONNX file, from numbers of
tokens to vectors, and a `tokenizer.json` as Hugging Face writes it. A bundle carries both.
"""

import json
import os
import pathlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any, Self, TypeVar

import numpy as np

from hashnet import extras, files
from hashnet.errors import ArgumentError, BundleError, HashnetError, WeightsError
from hashnet.network import onnx_check, onnx_graph, own_settings, runtimes
from hashnet.network.onnx_cost import Cost

NETWORK, TOKENIZER = "text.onnx", "tokenizer.json"
TABLE = "text"  # of the TOML
MOST_TOKENIZER = 1 << 26  # bytes: those of many languages have half as many
MOST_NETWORK = (1 << 31) - 1  # bytes: no ONNX file holds more itself
MOST_TOKENS, MOST_TEMPLATE = 1024, 200  # letters of a template
MOST = Cost(work=2.0**37, numbers=2.0**28)  # of a text: some seconds on a core, and 1 GB
# Times as long as it is that replacements of a tokenizer may make a text, all together.
_GROWTH = 64

T = TypeVar("T")


@dataclass(frozen=True)
class TextSettings:
    """How a text network takes texts, and what of it is wanted.

    Attributes:
        num_tokens: int. As many it takes: longer texts are cut, shorter ones padded behind.
        vector: str. Name of its output, float32 `(n, feature_dim)`.
        tokens: str. Name of its input, int64 or int32 `(n, num_tokens)`.
        mask: str or None. Name of the input that is 1 where a token is no padding, if it has one.
        padding: int. The number of the token that pads.
        template: str. What is said to the network of a text, which stands where `{}` does.

    Raises:
        ArgumentError: a value is out of its range.

    Example:
        >>> TextSettings(77, "text_embeds", template="a photo of {}").said("dogs")
        'a photo of dogs'
    """

    num_tokens: int
    vector: str
    tokens: str = "input_ids"
    mask: str | None = None
    padding: int = 0
    template: str = "{}"

    def __post_init__(self) -> None:
        if type(self.num_tokens) is not int or not 1 <= self.num_tokens <= MOST_TOKENS:
            raise ArgumentError(f"num_tokens is 1 to {MOST_TOKENS}.", repr(self.num_tokens))
        if type(self.padding) is not int or not 0 <= self.padding < 1 << 31:
            raise ArgumentError("padding is the number of a token.", repr(self.padding))
        if not (isinstance(self.vector, str) and isinstance(self.tokens, str)) or not isinstance(
            self.mask, str | None
        ):
            raise ArgumentError(
                "vector, tokens and mask are names.",
                f"{self.vector!r}, {self.tokens!r}, {self.mask!r}",
            )
        template = self.template
        if not (
            isinstance(template, str)
            and len(template) <= MOST_TEMPLATE
            and template.isprintable()
            and template.count("{}") == 1
        ):
            raise ArgumentError(
                f"A template is a line of {MOST_TEMPLATE} letters at most, with one {{}}.",
                repr(template)[:100],
            )

    @classmethod
    def from_dict(cls, values: object) -> Self:
        """The settings that a dictionary holds.

        Args:
            values: dict, as TOML or JSON gives it.

        Returns:
            `TextSettings`.

        Raises:
            ArgumentError: it is none, a value is missing or out of its range, or a name unknown.
        """
        known = [field.name for field in fields(cls)]
        if not isinstance(values, dict) or not {"num_tokens", "vector"} <= set(values) <= {*known}:
            raise ArgumentError(
                "A text network is described by num_tokens, vector and other known settings.",
                repr(values)[:200],
                f"They are: {', '.join(known)}.",
            )
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """dict that `from_dict` takes back and JSON can hold."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def said(self, text: str) -> str:
        """A text as the network is told it.

        Args:
            text: str.

        Returns:
            str.
        """
        return self.template.replace("{}", text)


@dataclass(frozen=True, eq=False)
class TextPart:
    """What a bundle carries of a text network.

    Attributes:
        settings: `TextSettings`.
        network: bytes of the ONNX file, whose one output is the vector.
        tokenizer: bytes of the `tokenizer.json`.
    """

    settings: TextSettings
    network: bytes
    tokenizer: bytes

    def files(self) -> dict[str, bytes]:
        """dict of name to content: the files of a bundle."""
        return {NETWORK: self.network, TOKENIZER: self.tokenizer}


def beside(path: str | os.PathLike[str], feature_dim: int) -> TextPart | None:
    """The text network that the TOML beside an image network names, opened once on trial.

    Args:
        path: str or path-like, of the image network.
        feature_dim: int. Numbers of its features.

    Returns:
        `TextPart`; None where it names none.

    Raises:
        WeightsError: a file is missing, damaged, holds what is refused, or is not what the table
            says; or its vectors are not as wide as features.
        HashnetError: tokenizers is not installed.
    """
    table = own_settings.read(path).get(TABLE)
    if table is None:
        return None
    require()
    try:
        part = _part(path, table)
        opened = TextNetwork(part, feature_dim)
        for text in ("a photo", "\U00010348" * MOST_TOKENS):  # of letters that it may not know
            opened.vector(text)
        opened.try_last_token()
    except (HashnetError, OSError) as error:
        raise WeightsError(
            "A text network of yours is a whole ONNX file and a tokenizer.json, beside the TOML, "
            "for vectors in the space of the features.",
            f"[{TABLE}] beside {os.fsdecode(path)}: {error}",
        ) from error
    return part


def missing() -> str | None:
    """Why texts have no vectors here, with the command that helps; None where they have.

    Returns:
        str or None.
    """
    if extras.is_installed("tokenizers"):
        return None
    return f"no tokenizers; install it: {extras.install_command('text')}"


def require() -> Any:
    """The library that takes texts apart.

    Raises:
        HashnetError: it is not installed.
    """
    return extras.load("tokenizers", "text", "Texts are taken apart for a network of yours.")


class TextNetwork:
    """Gives texts vectors in the space of an image network's features. Safe in several threads.

    Args:
        part: `TextPart`.
        feature_dim: int. Numbers of a feature.

    Raises:
        BundleError: a file is damaged, holds what is refused, or gives other vectors.
        HashnetError: tokenizers is not installed.
    """

    def __init__(self, part: TextPart, feature_dim: int) -> None:
        self._settings = part.settings
        self._tokenizer = _tokenizer(part)
        # On one thread, so that a text means the same on every machine.
        self._network = runtimes.open_bytes(
            part.network, NETWORK, "onnxruntime", num_threads=1, one_by_one=True, most=MOST
        )
        self._feature_dim = feature_dim

    def vector(self, text: str) -> np.ndarray:
        """Where a text lies among features.

        Args:
            text: str.

        Returns:
            float32 `(feature_dim,)`, of length 1.

        Raises:
            BundleError: the tokenizer or the network fails at it.
        """
        settings = self._settings
        said = settings.said(text)
        encoding = _guarded(lambda: self._tokenizer.encode(said))
        rows = {settings.tokens: encoding.ids}
        if settings.mask is not None:
            rows[settings.mask] = encoding.attention_mask
        return self._run(rows)

    def try_last_token(self) -> None:
        """Refuse a tokenizer that knows more tokens than the network.

        Raises:
            BundleError: it does.
        """
        settings = self._settings
        last = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
        rows = {settings.tokens: [max(last, settings.padding)] * settings.num_tokens}
        if settings.mask is not None:
            rows[settings.mask] = [1] * settings.num_tokens
        self._run(rows)

    def _run(self, rows: dict[str, list[int]]) -> np.ndarray:
        network = self._network

        def run() -> np.ndarray:
            inputs = {
                name: np.array([numbers], network.inputs[name].dtype)
                for name, numbers in rows.items()
            }
            return network.run([self._settings.vector], inputs)[0]

        found = _guarded(run)
        if found.shape != (1, self._feature_dim) or found.dtype != np.float32:
            raise BundleError(
                f"Vectors of texts are float32, as wide as features, {self._feature_dim}.",
                f"{self._settings.vector!r}, {found.dtype} of shape {found.shape[1:]}",
                "Take both networks of one pair, and the outputs that share a space.",
            )
        [vector] = found
        length = float(np.linalg.norm(vector.astype(np.float64)))
        if not (np.isfinite(length) and length > 0):
            raise BundleError("A text has a vector of finite numbers.", f"one of length {length}")
        return (vector / length).astype(np.float32)


def _part(path: str | os.PathLike[str], table: Any) -> TextPart:
    if not isinstance(table, dict):
        raise ArgumentError(f"[{TABLE}] is a table.", repr(table)[:100])
    settings = TextSettings.from_dict(
        {name: value for name, value in table.items() if name not in ("network", "tokenizer")}
    )
    network = _read(path, table, "network", MOST_NETWORK)
    tokenizer = _read(path, table, "tokenizer", MOST_TOKENIZER)
    return TextPart(settings, _prepared(network, settings), tokenizer)


def _read(path: str | os.PathLike[str], table: dict[str, Any], key: str, most: int) -> bytes:
    name = table.get(key)
    if not isinstance(name, str) or pathlib.PurePath(name).name != name or not name.isprintable():
        raise ArgumentError(f"{key} is the name of a file beside the TOML.", repr(name)[:100])
    return files.read_at_most(pathlib.Path(path).with_name(name), most)


def _prepared(content: bytes, settings: TextSettings) -> bytes:
    """The network for texts of `num_tokens`, with the one output that is wanted."""
    onnx_check.check_plain(content, NETWORK)
    import onnx

    network = onnx_graph.parsed(content, NETWORK)
    graph = network.graph
    weights = {one.name for one in graph.initializer}
    inputs = [one for one in graph.input if one.name not in weights]
    wanted = {settings.tokens} if settings.mask is None else {settings.tokens, settings.mask}
    if {one.name for one in inputs} != wanted:
        raise BundleError(
            "A text network takes tokens and, where it has one, a mask.",
            f"inputs {', '.join(one.name for one in inputs)}, of which {', '.join(sorted(wanted))} "
            "are named",
        )
    for end in inputs:
        sides = end.type.tensor_type.shape.dim
        if len(sides) != 2 or sides[1].dim_value not in (0, settings.num_tokens):
            raise BundleError(
                f"A text network takes (n, {settings.num_tokens}) tokens, as num_tokens says.",
                f"{end.name} of shape {[side.dim_value for side in sides]}",
            )
        sides[1].dim_value = settings.num_tokens
        kind = end.type.tensor_type.elem_type
        if kind not in (onnx.TensorProto.INT64, onnx.TensorProto.INT32):
            raise BundleError(
                "Tokens are int64 or int32.",
                f"{end.name} of {onnx.TensorProto.DataType.Name(kind)}",
            )
    outputs = {one.name: one for one in graph.output}
    if settings.vector not in outputs:
        raise BundleError(
            "vector names an output of the text network.",
            repr(settings.vector),
            f"Its outputs are: {', '.join(outputs)}.",
        )
    del graph.output[:]
    graph.output.append(outputs[settings.vector])
    return onnx_graph.content(network)


def _tokenizer(part: TextPart) -> Any:
    tokenizers, settings = require(), part.settings
    if len(part.tokenizer) > MOST_TOKENIZER:
        raise BundleError(
            f"A {TOKENIZER} has {MOST_TOKENIZER} bytes at most.", f"{len(part.tokenizer)}"
        )

    def opened() -> Any:
        described = json.loads(part.tokenizer)
        if described["model"].get("dropout"):
            raise ValueError("it takes texts apart by chance (dropout)")
        if _growth(described.get("normalizer")) > _GROWTH:
            raise ValueError("it replaces letters by long texts")
        tokenizer = tokenizers.Tokenizer.from_str(part.tokenizer.decode())
        tokenizer.enable_truncation(settings.num_tokens)
        tokenizer.enable_padding(length=settings.num_tokens, pad_id=settings.padding)
        return tokenizer

    return _guarded(opened)


def _growth(normalizer: Any) -> int:
    """Times as long as it is that the replacements of a normalizer can make a text."""
    if not isinstance(normalizer, dict):
        return 1
    grown = max(1, len(normalizer.get("content") or "")) if "content" in normalizer else 1
    for one in normalizer.get("normalizers") or ():
        grown *= _growth(one)
    return grown


def _guarded(call: Callable[[], T]) -> T:
    """What a call gives; one error for all kinds that these libraries raise."""
    try:
        return call()
    except BaseException as error:
        # A panic of Rust is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise BundleError(
            "Texts are taken apart by the tokenizer that its network was trained with.",
            " ".join(str(error).split())[:300] or type(error).__name__,
        ) from error
