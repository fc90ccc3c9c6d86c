"""From images to codes and features, with the ONNX file that a bundle carries.

Nothing here imports Keras or TensorFlow: searching an index starts in a fraction of a second.
"""

import collections
import concurrent.futures
import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from hashnet import bundle as bundles
from hashnet import codes, images
from hashnet.errors import BundleError, ImageError, ShapeError

BATCH = 16
ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Encoded:
    """What became of some images; the first axis of every array is the readable ones.

    Attributes:
        positions: int64 `(n,)`. Which of the images given each row is of, ascending.
        codes: uint8 `(n, code_bytes)`.
        features: float32 `(n, feature_dim)`, each of length 1.
        latents: float32 `(n, num_bits)`, 0..1.
        scores: float32 `(n, num_classes)`, class probabilities.
        problems: list of `images.Problem`, one for each image that could not be read.
    """

    positions: np.ndarray
    codes: np.ndarray
    features: np.ndarray
    latents: np.ndarray
    scores: np.ndarray
    problems: list

    def __len__(self):
        return len(self.positions)


class Encoder:
    """Encodes images with the network of one bundle.

    Args:
        bundle: a `hashnet.bundle.Bundle`.
        num_threads: int or None. Threads of the network and, beside them, of decoding; None
            means one for each core this process may use. Codes do not depend on it.

    Raises:
        BundleError: the ONNX file is not the network that the bundle describes.

    Example:
        >>> encoder = Encoder.open(bundle_folder)
        >>> encoded = encoder.encode(["cat.png", "dog.png"])
        >>> encoded.codes.shape, encoded.features.shape
        ((2, 4), (2, 1280))
    """

    def __init__(self, bundle, *, num_threads=None):
        self.bundle = bundle
        self.config = bundle.config
        self.fingerprint = bundle.fingerprint
        self.num_threads = num_threads or len(os.sched_getaffinity(0))
        # From bytes, a model cannot name further files to be read.
        model = bundle.encoder_file.read_bytes()
        self._session = _session(model, self.num_threads, bundle.encoder_file)
        _check_outputs(self._session, self.config, bundle.encoder_file)

    @classmethod
    def open(cls, folder, *, num_threads=None):
        """Open the encoder of a bundle, or the one that an index carries.

        Args:
            folder: str or path-like.
            num_threads: as for the class.

        Raises:
            BundleError: it is missing, damaged, or of a newer format.
        """
        return cls(bundles.load(folder), num_threads=num_threads)

    def encode(self, sources: Iterable) -> Encoded:
        """Encode images; unreadable ones are named in `problems` and leave no row.

        Args:
            sources: iterable of paths, bytes or binary files (see `hashnet.images.read`), or
                uint8 arrays `(height, width, 3)`, RGB and upright.

        Returns:
            An `Encoded`.
        """
        parts = list(self.stream(sources)) or [self._encode_batch([], [])]
        return Encoded(
            *(
                np.concatenate([getattr(part, name) for part in parts])
                for name in ("positions", "codes", "features", "latents", "scores")
            ),
            problems=[problem for part in parts for problem in part.problems],
        )

    def encode_one(self, source) -> tuple[np.ndarray, np.ndarray]:
        """Encode one image, such as a query.

        Args:
            source: as one of those for `encode`.

        Returns:
            code: uint8 `(code_bytes,)`.
            feature: float32 `(feature_dim,)`.

        Raises:
            ImageError: it cannot be read.
        """
        latents, features = self._run(["latent", "feature"], self._pixels(source)[None])
        return codes.from_latent(latents[0]), features[0]

    def stream(self, sources: Iterable, *, workers=None, batch=BATCH) -> Iterator[Encoded]:
        """Encode any number of images in order, with bounded memory.

        Decoding runs ahead in threads while the network works.

        Args:
            sources: as for `encode`.
            workers: int or None. Decoding threads; None means `num_threads`.
            batch: int. Images that go through the network at once.

        Yields:
            An `Encoded` for every `batch` images; positions count from the first source.
        """
        workers = workers or self.num_threads
        queue = collections.deque()
        with concurrent.futures.ThreadPoolExecutor(workers, "decode") as pool:
            try:
                for start, group in _batches(sources, batch):
                    queue.append((start, group, [pool.submit(self._try, one) for one in group]))
                    if len(queue) > 2 + workers // 4:
                        yield self._finish(*queue.popleft())
                while queue:
                    yield self._finish(*queue.popleft())
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

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
        # Only making an index and evaluating one come here: searching does without this import.
        import onnx.utils

        network = onnx.load_model_from_string(self.bundle.encoder_file.read_bytes())
        head = onnx.utils.Extractor(network).extract_model(["feature"], [output])
        session = _session(head.SerializeToString(), self.num_threads, self.bundle.encoder_file)
        blocks = (
            np.ascontiguousarray(features[start : start + ROWS_AT_ONCE], dtype=np.float32)
            for start in range(0, len(features), ROWS_AT_ONCE)
        )
        empty = np.empty((0, self.config.feature_dim), np.float32)
        answers = [session.run([output], {"feature": block})[0] for block in (*blocks, empty)]
        return np.concatenate(answers)

    def _finish(self, start, group, futures):
        decoded = [future.result() for future in futures]
        positions, pixels, problems = [], [], []
        for position, (source, result) in enumerate(zip(group, decoded, strict=True), start):
            if isinstance(result, ImageError):
                problems.append(images.Problem(_name(source, position), str(result)))
            else:
                positions.append(position)
                pixels.append(result)
        return self._encode_batch(positions, pixels, problems)

    def _encode_batch(self, positions, pixels, problems=()):
        size = self.config.image_size
        stacked = np.stack(pixels) if pixels else np.empty((0, size, size, 3), np.uint8)
        latents, features, scores = self._run(["latent", "feature", "scores"], stacked)
        return Encoded(
            np.array(positions, dtype=np.int64),
            codes.from_latent(latents),
            features,
            latents,
            scores,
            list(problems),
        )

    def _run(self, outputs, pixels):
        return self._session.run(outputs, {"image": pixels})

    def _pixels(self, source):
        size = (self.config.image_size, self.config.image_size)
        if isinstance(source, np.ndarray):
            return images.resize(source, size)
        return images.read_resized(source, size)

    def _try(self, source):
        try:
            return self._pixels(source)
        except ImageError as error:
            return error


def _batches(sources, size):
    sources, start = iter(sources), 0
    while group := list(itertools.islice(sources, size)):
        yield start, group
        start += len(group)


def _name(source, position):
    return os.fsdecode(source) if isinstance(source, str | os.PathLike) else f"image {position}"


def _session(model, num_threads, path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's own kinds have no common base
        raise BundleError(
            "A bundle's encoder must be a network that ONNX Runtime takes.", f"{path}: {error}"
        ) from error


def _check_outputs(session, config, path):
    size = config.image_size
    expected = {
        "image": ("tensor(uint8)", [size, size, 3]),
        "latent": ("tensor(float)", [config.num_bits]),
        "feature": ("tensor(float)", [config.feature_dim]),
        "scores": ("tensor(float)", [len(config.classes)]),
    }
    ends = [*session.get_inputs(), *session.get_outputs()]
    found = {end.name: (end.type, list(end.shape[1:])) for end in ends}
    if found != expected:
        raise ShapeError(
            "A bundle's encoder must take and give what its description says.",
            f"{found} in {path}",
            f"Expected {expected}.",
        )
