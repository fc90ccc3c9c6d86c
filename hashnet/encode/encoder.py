"""From images to codes and features, with the ONNX file that a bundle carries.

Nothing here imports Keras or TensorFlow, unless the Keras runtime is asked for: searching an
index starts in a fraction of a second.
"""

import collections
import concurrent.futures
import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from hashnet import codes, images, system, threads
from hashnet.checks import checked_integer
from hashnet.errors import ArgumentError, BundleError, ImageError, ShapeError
from hashnet.network import bundle as bundles
from hashnet.network import onnx_graph, runtimes
from hashnet.network.model import HashNetConfig
from hashnet.network.own_text import TextNetwork

Source = images.Source | images.Photo

# Images that a worker takes at once: fewer are handed out at a cost, more are held at a time.
BATCH = 8
ROWS_AT_ONCE = 1024
# Of F7 of EfficientNet-Lite0 before it is scaled to length 1, for a photo in the middle.
F7_LENGTH = np.float32(15)


@dataclass(frozen=True)
class Encoded:
    """What became of some images; the first axis of every array is the readable ones.

    Attributes:
        positions: int64 `(n,)`. Which of the images given each row is of, ascending.
        codes: uint8 `(n, code_bytes)`.
        features: float32 `(n, feature_dim)`, each of length 1.
        latents: float32 `(n, num_bits)`, 0..1.
        scores: float32 `(n, num_classes)`, class probabilities; of no class `(n, 0)`.
        problems: list of `images.Problem`, one for each image that could not be read.
        extras: list, as long as `positions`: what the function given to `Encoder.stream` made of
            each image. Empty where none was given.
    """

    positions: np.ndarray
    codes: np.ndarray
    features: np.ndarray
    latents: np.ndarray
    scores: np.ndarray
    problems: list[images.Problem]
    extras: list[Any] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.positions)


class Encoder:
    """Encodes images with the network of one bundle.

    Args:
        bundle: a `Bundle`.
        runtime: str. `"openvino"`, `"onnxruntime"` or `"keras"`; or `"auto"`, the first of
            `FASTEST` that is installed; or `"soonest"`, the one that opens
            fastest. All compute in the precision of the bundle, and where that is float32, their
            codes are equal but for bits whose latent is within 1e-4 of one half. A bundle of
            bfloat16 needs OpenVINO, one of int8 ONNX Runtime.
        num_threads: int or None. Cores to use; None means all that this process may use. Codes
            do not depend on it, nor on which images are encoded together.

    Attributes:
        bundle: as given.
        config: the bundle's `HashNetConfig`.
        num_threads: int, as given, or the cores that None stands for.
        runtime: str, name of the runtime that was taken.
        precision: str, the bundle's: `"float32"`, `"bfloat16"` or `"int8"`.
        fingerprint: str, the bundle's.

    Raises:
        BundleError: the ONNX file is not the network that the bundle describes.
        HashnetError: the runtime is unknown, not installed, or does not compute in the bundle's
            precision, or the processor does not.

    Example:
        >>> encoder = Encoder.open(bundle_folder, runtime="onnxruntime")
        >>> encoded = encoder.encode(["cat.png", "dog.png"])
        >>> encoded.codes.shape, encoded.features.shape
        ((2, 4), (2, 64))
    """

    def __init__(
        self, bundle: bundles.Bundle, *, runtime: str = "auto", num_threads: int | None = None
    ) -> None:
        if num_threads is not None:
            num_threads = checked_integer(num_threads, 1, "num_threads")
        self.bundle = bundle
        self.config = bundle.config
        self.fingerprint = bundle.fingerprint
        self.num_threads = num_threads or system.cores()
        self._workers = num_threads or self.num_threads + 1
        self.precision = bundle.precision
        takes = runtimes.FOR_PRECISION[self.precision]
        if self.precision == "float32":
            takes += ("keras",)
        self.runtime = runtimes.choose(runtime, takes)
        self._soon = runtime == "soonest"
        # Networks of what comes after F7, by their output and whether they take one at a time.
        self._heads: dict[tuple[str, bool], runtimes.Network] = {}
        # One image at a time: all threads work on it.
        self._network = self._open(concurrent=False)
        _check_specs(self._network, self.config, bundle.encoder_file)

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        *,
        runtime: str = "auto",
        num_threads: int | None = None,
    ) -> Self:
        """Open the encoder of a bundle, or the one that an index carries.

        Args:
            folder: str or path-like.
            runtime, num_threads: as for the class.

        Returns:
            The opened `Encoder`.

        Raises:
            BundleError: it is missing, damaged, or of a newer format.
        """
        return cls(bundles.load(folder), runtime=runtime, num_threads=num_threads)

    @functools.cached_property
    def _networks(self) -> runtimes.Network:
        """Many images: every thread decodes and runs images of its own, and none waits."""
        return self._open(concurrent=True)

    def _open(self, concurrent: bool) -> runtimes.Network:
        if self.runtime == "keras":
            from hashnet.network import export

            graph = export.graph(self.bundle.load_model(), self.config.outputs)
            return runtimes.from_keras(graph)
        return runtimes.open_bytes(
            self.bundle.encoder_bytes(),
            self.bundle.encoder_file,
            "soonest" if self._soon else self.runtime,
            num_threads=self.num_threads,
            concurrent=concurrent,
            one_by_one=True,
            precision=self.precision,
            most=self.config.most,
        )

    @functools.cached_property
    def text_network(self) -> TextNetwork | None:
        """The `TextNetwork` that the bundle carries, opened when it is first asked for; or None.

        Raises:
            BundleError: it is damaged.
            HashnetError: tokenizers is not installed.
        """
        part = self.bundle.text_part()
        return None if part is None else TextNetwork(part, self.config.feature_dim)

    def encode(self, sources: Iterable[Source]) -> Encoded:
        """Encode images; unreadable ones are named in `problems` and leave no row.

        Args:
            sources: iterable of images, each as `images.Photo` takes it: a path, bytes, a binary
                file, a PIL image, pixels or a `Photo`.

        Returns:
            An `Encoded`.

        Raises:
            ArgumentError: this is one image, where a list of images is meant.
        """
        parts = list(self.stream(sources)) or [self._encode_group(0, [], None)]
        return Encoded(
            np.concatenate([part.positions for part in parts]),
            np.concatenate([part.codes for part in parts]),
            np.concatenate([part.features for part in parts]),
            np.concatenate([part.latents for part in parts]),
            np.concatenate([part.scores for part in parts]),
            [problem for part in parts for problem in part.problems],
        )

    def encode_one(self, source: Source) -> tuple[np.ndarray, np.ndarray]:
        """Encode one image, such as a query.

        Args:
            source: as one of those for `encode`.

        Returns:
            code: uint8 `(code_bytes,)`.
            feature: float32 `(feature_dim,)`.

        Raises:
            ImageError: it cannot be read.
            ArgumentError: this is an encoder of vectors.

        Example:
            >>> code, feature = Encoder.open(bundle_folder).encode_one("cat.png")
            >>> code.shape, feature.shape
            ((4,), (64,))
        """
        self.refuse_pictures(_name(source, 0))
        pixels = self._pixels(images.Photo.of(source))[None]
        latents, features = self._network.run(["latent", "feature"], {"image": pixels})
        return codes.from_latent(latents[0]), features[0]

    def stream(
        self,
        sources: Iterable[Source],
        *,
        workers: int | None = None,
        batch: int = BATCH,
        also: Callable[[images.Photo], Any] | None = None,
    ) -> Iterator[Encoded]:
        """Encode any number of images in order, with bounded memory.

        Each worker decodes its images and runs them through the network on its own core, so that
        no core waits for another; at most two batches more than there are workers are held.

        Args:
            sources: as for `encode`.
            workers: int or None. Threads; None means `num_threads`, and one more where that was
                left open, since a core idles while a worker waits for its file. More of them help
                where files come slowly, from a network or a turning disk.
            batch: int. Images that a worker takes at once.
            also: function of a `Photo`, or None. What else is wanted of each image while it is
                decoded, such as local features; called by the workers, several at a time. An
                `ImageError` that it raises makes the image a problem.

        Yields:
            An `Encoded` for every `batch` images; positions count from the first source.

        Raises:
            ArgumentError: this is one image, where a list of images is meant; or an encoder of
                vectors.
        """
        if images.is_one(sources):
            raise ArgumentError(
                "Images come as a list.",
                f"one image, {type(sources).__name__}",
                "Put it in a list, or call encode_one.",
            )
        self.refuse_pictures("images")
        workers = self._workers if workers is None else checked_integer(workers, 1, "workers")
        return self._stream(sources, workers, batch, also)

    def _stream(
        self,
        sources: Iterable[Source],
        workers: int,
        batch: int,
        also: Callable[[images.Photo], Any] | None,
    ) -> Iterator[Encoded]:
        queue: collections.deque[concurrent.futures.Future[Encoded]] = collections.deque()
        with concurrent.futures.ThreadPoolExecutor(workers, "encode") as pool:
            try:
                for start, group in _batches(sources, batch):
                    queue.append(pool.submit(self._encode_group, start, group, also))
                    if len(queue) > workers + 1:
                        yield queue.popleft().result()
                while queue:
                    yield queue.popleft().result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def encode_vectors(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Encode features that this network, or the one that it stands for, has given elsewhere.

        Args:
            vectors: float array `(n, feature_dim)`, of any length but 0.

        Returns:
            codes: uint8 `(n, code_bytes)`. A vector's does not depend on its neighbours.
            features: float32 `(n, feature_dim)`, the vectors scaled to length 1.

        Raises:
            ShapeError: they are of another width, or no numbers.
            ArgumentError: one holds NaN or infinity, or is 0.

        Example:
            >>> encoder = Encoder.open(bundle_folder)
            >>> code, feature = encoder.encode_one("cat.png")
            >>> codes, features = encoder.encode_vectors(100 * feature[None])
            >>> bool((codes[0] == code).all()), bool(np.allclose(features[0], feature))
            (True, True)
        """
        features = unit_vectors(vectors, self.config.feature_dim)
        if not len(features):
            width = codes.code_bytes(self.config.num_bits)
            return np.empty((0, width), np.uint8), features
        # One at a time, as an image's code is made.
        head = self._after_features("latent", one_by_one=True)
        [latents] = head.run(["latent"], {"feature": features})
        return codes.from_latent(latents), features

    def _after_features(self, output: str, *, one_by_one: bool = False) -> runtimes.Network:
        """The network of what comes after F7, opened once."""
        if (output, one_by_one) in self._heads:
            return self._heads[output, one_by_one]
        # Only what makes an index, evaluates one or searches by vectors comes here: other searches
        # do without this import.
        import onnx.utils

        network = onnx.load_model_from_string(self.bundle.encoder_bytes())
        rest = onnx.utils.Extractor(network).extract_model(["feature"], [output])
        # Keras would have to build the network for this; the numbers are the same.
        runtime = "onnxruntime" if self.runtime == "keras" else self.runtime
        head = runtimes.open_bytes(
            rest.SerializeToString(),
            self.bundle.encoder_file,
            runtime,
            num_threads=self.num_threads,
            one_by_one=one_by_one,
            precision=self.precision,
        )
        self._heads[output, one_by_one] = head
        return head

    def refuse_pictures(self, name: str) -> None:
        """Refuse a picture where only vectors can be encoded.

        Args:
            name: str, of the picture.

        Raises:
            ArgumentError: this is an encoder of vectors.
        """
        if self.config.takes_vectors:
            raise ArgumentError(
                "An index of vectors alone encodes no picture: the network that made its vectors "
                "is not in it.",
                name,
                "Give a vector or an id, or make the index with the network that made the vectors "
                "(--backbone or --bundle).",
            )

    def from_features(self, output: str, features: np.ndarray) -> np.ndarray:
        """Run only what comes after F7, on features that this network gave before.

        Args:
            output: `"latent"`, or `"scores"` where they come from the latent.
            features: float32 `(n, feature_dim)`, each of length 1.

        Returns:
            float32 `(n, num_bits)` or `(n, num_classes)`.

        Example:
            >>> encoder = Encoder.open(bundle_folder)
            >>> encoded = encoder.encode(["cat.png"])
            >>> latents = encoder.from_features("latent", encoded.features)
            >>> bool((codes.from_latent(latents) == encoded.codes).all())
            True
        """
        head = self._after_features(output)
        blocks = (
            np.ascontiguousarray(features[start : start + ROWS_AT_ONCE], dtype=np.float32)
            for start in range(0, len(features), ROWS_AT_ONCE)
        )
        answers = [head.run([output], {"feature": block})[0] for block in blocks]
        width = self.config.num_bits if output == "latent" else len(self.config.classes)
        return np.concatenate([np.empty((0, width), np.float32), *answers])

    @property
    def class_weights(self) -> np.ndarray:
        """The weights of F8, float32: a column for each class.

        The rows are the bits of the latent where `scores_from` is `"latent"`, and the numbers of
        the feature where it is `"feature"`.

        Raises:
            BundleError: the network ends in something else.

        Example:
            >>> Encoder.open(bundle_folder).class_weights.shape
            (32, 3)
        """
        return self._class_layer[0]

    def class_scores(self, features: np.ndarray) -> np.ndarray:
        """What F8 gives for features that this network gave before, without a picture.

        Where the scores come from the latent, they are those of the picture. Where they come from
        the feature, its length is not known any more: `F7_LENGTH` stands for it, which changes how
        sure the scores are, and hardly their order (tests/bench/words_shown.py).

        Args:
            features: float32 `(n, feature_dim)`, each of length 1.

        Returns:
            float32 `(n, num_classes)`, probabilities.

        Raises:
            BundleError: as for `class_weights`.

        Example:
            >>> encoder = Encoder.open(bundle_folder)
            >>> encoded = encoder.encode(["cat.png"])
            >>> np.allclose(encoder.class_scores(encoded.features), encoded.scores, atol=1e-5)
            True
        """
        if self.config.scores_from == "latent":
            return self.from_features("scores", features)
        weights, bias = self._class_layer
        scores = np.empty((len(features), len(bias)), np.float32)
        with threads.blas_threads(1):  # so that answers do not depend on threads
            for start in range(0, len(features), ROWS_AT_ONCE):
                rows = slice(start, start + ROWS_AT_ONCE)
                logits = F7_LENGTH * (features[rows].astype(np.float32) @ weights) + bias
                shares = np.exp(logits - logits.max(axis=1, keepdims=True))
                scores[rows] = shares / shares.sum(axis=1, keepdims=True)
        return scores

    @functools.cached_property
    def _class_layer(self) -> tuple[np.ndarray, np.ndarray]:
        """The weights of F8, a column for each class, and what it adds, 0 where that is nothing."""
        import onnx
        from onnx import numpy_helper

        content = self.bundle.float32_encoder() or self.bundle.encoder_bytes()
        network = onnx.load_model_from_string(content)
        stored = {tensor.name: tensor for tensor in network.graph.initializer}
        makers = {name: node for node in network.graph.node for name in node.output}
        config = self.config
        rows = config.num_bits if config.scores_from == "latent" else config.feature_dim
        bias = np.zeros(len(config.classes), np.float32)
        node = makers.get("scores")
        while node is not None:  # softmax, then the bias, then the weights
            arrays = [numpy_helper.to_array(stored[name]) for name in node.input if name in stored]
            for array in arrays:
                if array.size == bias.size:
                    bias = array.reshape(-1).astype(np.float32)
            for array in arrays:
                if array.shape == (rows, len(bias)):
                    return array.astype(np.float32), bias
            node = next((makers[name] for name in node.input if name in makers), None)
        raise BundleError(
            "A network's scores come from a matrix of its classes.", str(self.bundle.encoder_file)
        )

    def latent_of(self, feature: np.ndarray) -> np.ndarray | None:
        """What H gives for one feature, without running the network.

        Args:
            feature: float32 `(feature_dim,)`, as this network gave it, or a mean of such.

        Returns:
            float32 `(num_bits,)`, 0 to 1; or None, where the weights of H lie in a file that only
            Keras reads.

        Example:
            >>> encoder = Encoder.open(bundle_folder)
            >>> encoded = encoder.encode(["cat.png"])
            >>> latent = encoder.latent_of(encoded.features[0])
            >>> latent is None or np.allclose(latent, encoded.latents[0], atol=1e-5)
            True
        """
        if self._hash_layer is None:
            return None
        kernel, bias = self._hash_layer
        # Not a product of matrices, whose sums have an order that depends on threads.
        return 1 / (1 + np.exp(-((kernel * feature).sum(axis=1) + bias)))

    @functools.cached_property
    def _hash_layer(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Weights of H: float32 `(num_bits, feature_dim)` and `(num_bits,)`."""
        content = self.bundle.float32_encoder()
        if content is None:
            return None
        kernel, bias = onnx_graph.hash_layer(onnx_graph.parsed(content, self.bundle.folder))
        return np.ascontiguousarray(kernel.T), bias

    def _encode_group(
        self,
        start: int,
        group: Sequence[Source],
        also: Callable[[images.Photo], Any] | None,
    ) -> Encoded:
        positions, pixels, problems, extras = [], [], [], []
        for position, source in enumerate(group, start):
            try:
                # One at a time: whole images are large.
                photo = images.Photo.of(source)
                of_network = self._pixels(photo)
                if also is not None:
                    extras.append(also(photo))
            except ImageError as error:
                problems.append(images.Problem(_name(source, position), str(error)))
                continue
            pixels.append(of_network)
            positions.append(position)
        config = self.config
        if pixels:
            found = self._networks.run(config.outputs, {"image": np.stack(pixels)})
        else:
            widths = (config.num_bits, config.feature_dim, len(config.classes))
            found = [np.empty((0, width), np.float32) for width in widths]
        latents, features, *scores = found
        return Encoded(
            np.array(positions, dtype=np.int64),
            codes.from_latent(latents),
            features,
            latents,
            scores[0] if scores else np.empty((len(features), 0), np.float32),
            problems,
            extras,
        )

    def encode_here(self, pieces: Sequence[np.ndarray]) -> Encoded:
        """Encode a few images in the thread that asks, such as one of `stream`'s workers.

        Args:
            pieces: as for `encode`.

        Returns:
            An `Encoded`, equal to that of `encode`.
        """
        return self._encode_group(0, pieces, None)

    def _pixels(self, photo: images.Photo) -> np.ndarray:
        return photo.resized((self.config.image_size, self.config.image_size))


def unit_vectors(vectors: np.ndarray, feature_dim: int | None = None) -> np.ndarray:
    """Vectors scaled to length 1, once it is known that they are such.

    Args:
        vectors: float array `(n, d)`.
        feature_dim: int or None. What d is to be; any if None.

    Returns:
        float32 `(n, d)`.

    Raises:
        ShapeError: they are of another width, or no numbers.
        ArgumentError: one holds NaN or infinity, or is 0; the message names its place.

    Example:
        >>> unit_vectors(np.array([[3.0, 4.0]])).round(2).tolist()
        [[0.6000000238418579, 0.800000011920929]]
    """
    if not (
        isinstance(vectors, np.ndarray)
        and vectors.ndim == 2
        and vectors.dtype.kind == "f"
        and feature_dim in (None, vectors.shape[1])
    ):
        given = getattr(vectors, "dtype", type(vectors).__name__), np.shape(vectors)
        raise ShapeError(
            f"Vectors are a float array (n, {feature_dim or 'd'}).",
            f"{given[0]} of shape {given[1]}",
            "Were they made by the network that made those of the index?",
        )
    wide = np.ascontiguousarray(vectors, np.float64)
    with np.errstate(over="ignore"):  # no number of float32 is so large, and no network's
        lengths = np.sqrt((wide * wide).sum(axis=1))
    bad = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if len(bad):
        raise ArgumentError(
            "A vector holds finite numbers under 1e150, and not only zeros.",
            f"vector {bad[0]}, counted from 0, and {len(bad) - 1} more",
            "Leave such vectors out.",
        )
    return (wide / lengths[:, None]).astype(np.float32)


def _batches(sources: Iterable[Source], size: int) -> Iterator[tuple[int, list[Source]]]:
    sources, start = iter(sources), 0
    while group := list(itertools.islice(sources, size)):
        yield start, group
        start += len(group)


def _name(source: Source, position: int) -> str:
    path = source.path if isinstance(source, images.Photo) else source
    return os.fsdecode(path) if isinstance(path, str | os.PathLike) else f"image {position}"


def _check_specs(network: runtimes.Network, config: HashNetConfig, path: os.PathLike[str]) -> None:
    size = config.image_size
    given = runtimes.TensorSpec("uint8", (size, size, 3))
    if config.takes_vectors:
        given = runtimes.TensorSpec("float32", (config.feature_dim,))
    expected = {
        config.known.takes: given,
        "latent": runtimes.TensorSpec("float32", (config.num_bits,)),
        "feature": runtimes.TensorSpec("float32", (config.feature_dim,)),
    }
    if config.classes:
        expected["scores"] = runtimes.TensorSpec("float32", (len(config.classes),))
    found = {**network.inputs, **network.outputs}
    if found != expected:
        raise ShapeError(
            "A bundle's encoder must take and give what its description says.",
            f"{found} in {path}",
            f"Expected {expected}.",
        )
