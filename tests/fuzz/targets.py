"""What is fuzzed: for each target its good bytes, and what reads them."""

import atexit
import contextlib
import functools
import io
import pathlib
import shutil
import tempfile
import time
import urllib.parse
import warnings

import numpy as np
from PIL import Image

from hashnet.errors import HashnetError

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
# What no single input of some kilobytes may take.
MOST_SECONDS = 3.0


class Costly(Exception):
    """An input took far longer than it should."""


class Target:
    """One kind of input.

    Args:
        corpus: function that gives a list of bytes, each of a good input.
        use: function of bytes that reads them, or raises a `HashnetError`.
    """

    def __init__(self, corpus, use):
        self.corpus, self.use = functools.cache(corpus), use


def judged(target, data):
    """Have an input read or refused.

    Args:
        target: `Target`.
        data: bytes.

    Returns:
        bool. Whether it was read.

    Raises:
        Costly: it took too long. Whatever else is raised but a `HashnetError` is a find, too.
    """
    start = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            # `pickletools` says it of escapes in strings, which are then refused.
            warnings.simplefilter("ignore", DeprecationWarning)
            target.use(data)
        was_read = True
    except HashnetError:
        was_read = False
    taken = time.process_time() - start
    if taken > MOST_SECONDS:
        raise Costly(f"{len(data)} bytes took {taken:.1f} s")
    return was_read


def _pictures():
    from tests import make_images

    image = make_images.photo(20, 28)
    rgba = np.dstack([image, image[..., 0]])
    exif = make_images.exif(6)
    corpus = [
        make_images.encoded(image, name, **options)
        for name, options in (
            ("JPEG", {"exif": exif}),
            ("JPEG", {"progressive": True}),
            ("PNG", {"exif": exif}),
            ("BMP", {}),
            ("TIFF", {"exif": exif}),
            ("TIFF", {"compression": "tiff_lzw"}),
            ("TIFF", {"compression": "jpeg"}),
            ("WEBP", {"exif": exif}),
            ("AVIF", {}),
            ("JPEG2000", {}),
            ("PPM", {}),
            ("ICO", {"sizes": [(28, 20)]}),
            ("QOI", {}),
        )
    ]
    corpus += [make_images.encoded(rgba, name) for name in ("PNG", "WEBP", "TIFF")]
    corpus += [
        make_images.encoded(Image.fromarray(image).quantize(16), "GIF"),
        make_images.encoded(Image.fromarray(image).quantize(16), "BMP"),
        make_images.encoded(Image.fromarray(image).convert("CMYK"), "JPEG"),
        make_images.encoded(image[..., 0].astype(np.int32) * 999, "TIFF"),
        make_images.apng_of_many_frames(image, 3),
        make_images.gif_of_many_frames(image, 3),
        make_images.webp_of_many_frames(image, 3),
        b"P3 # numbers\n3 2 99\n" + b"1 2 3 " * 6,
        b"P1\n4 2\n0101\n1 0 1 0",
    ]
    return corpus


def _read_picture(data):
    from hashnet import images

    photo = images.Photo(data, max_pixels=10**6)
    photo.resized((8, 9))
    image = photo.full()
    assert image.dtype == np.uint8 and image.shape[2] == 3 and image.size


def _read_head(data):
    from hashnet import images

    height, width = images.size(data, max_pixels=10**6)
    assert height > 0 and width > 0
    assert images.Photo(data, max_pixels=10**6).exif is not None


def _networks():
    from onnx import TensorProto, helper

    floats = TensorProto.FLOAT
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[1, 1], pads=[0, 0, 0, 0]),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    weight = helper.make_tensor("w", floats, [2, 3, 1, 1], [1.0] * 6)
    ends = [
        helper.make_tensor_value_info(name, floats, [None, channels, 8, 8])
        for name, channels in (("x", 3), ("y", 2))
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    return [model.SerializeToString()]


def _check_network(data):
    from hashnet.network import onnx_check

    onnx_check.check(data, "x.onnx")


def _checkpoints():
    return [(GOLDEN / f"torch_{name}.pth").read_bytes() for name in ("legacy", "zip")]


def _read_checkpoint(data):
    from hashnet.network import torch_weights

    with tempfile.NamedTemporaryFile(suffix=".pth") as file:
        file.write(data)
        file.flush()
        torch_weights.read_torch(file.name)


def _shards():
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"id": ["a", "b"], "code": [b"12", b"34"], "size": [1, 2]})
    corpus = []
    for compression in ("none", "zstd"):
        out = io.BytesIO()
        pyarrow.parquet.write_table(table, out, compression=compression)
        corpus.append(out.getvalue())
    return corpus


def _read_footer(data):
    from hashnet.retrieval.extraction import parquet

    assert all(isinstance(one, int) for one in parquet.codecs(io.BytesIO(data)))


def _descriptions():
    return [(GOLDEN / "bundle_v1" / "hashnet.json").read_bytes()]


def _open_bundle(data):
    from hashnet.network import bundle

    with _copied(GOLDEN / "bundle_v1") as folder:
        (folder / bundle.DESCRIPTION).write_bytes(data)
        bundle.load(folder)


def _catalogues():
    return [(GOLDEN / "index_v6" / "catalogue.sqlite").read_bytes()]


def _read_catalogue(data):
    from hashnet.retrieval.store.folder import catalogue

    with _copied(GOLDEN / "index_v6", without="segments") as folder:
        (folder / "catalogue.sqlite").write_bytes(data)
        catalogue.read_catalogue(folder)


@contextlib.contextmanager
def _copied(folder, without=""):
    with tempfile.TemporaryDirectory() as scratch:
        copy = pathlib.Path(scratch) / "copy"
        yield pathlib.Path(
            shutil.copytree(folder, copy, ignore=shutil.ignore_patterns(without or "-"))
        )


def _questions():
    return [
        b"id=a&k=5&threshold=9",
        b"id=a&pool=500&label=cat&label=dog&under=a/b",
        b"class=tabby&until_unlike=true&after=2020-01-01&before=2021-02-03T04:05:06",
        b"id=a&region=1,2,30,40&right=b&wrong=c&rank_by=feature&ids=a&ids=b",
        b"id=%C3%BC%00&k=-1&verify=yes&same_object=&matcher=nearest",
    ]


def _ask(data):
    # As the server hands it on: bytes of the address, which are ASCII without blanks.
    text = urllib.parse.quote(data, safe="%=&+,/:;-._~?@!$'()*[]")
    answer = _client().get(f"/api/search?{text}")
    assert answer.status_code < 500, f"status {answer.status_code}"
    if answer.status_code != 200:
        raise HashnetError(answer.json()["error"])


@functools.cache
def _client():
    from starlette.testclient import TestClient

    from hashnet.retrieval.index import Index
    from hashnet.retrieval.service import app
    from tests import make_images

    folder = pathlib.Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    pictures = [make_images.photo(20, 28, seed) for seed in range(3)]
    index = Index.create(folder / "index", GOLDEN / "bundle_v1")
    index.add(pictures, ids=["a", "b", "c"], labels=["cat", "dog", "cat"])
    return TestClient(app.create_app(folder / "index"), base_url="http://localhost")


TARGETS = {
    "pictures": Target(_pictures, _read_picture),
    "heads": Target(_pictures, _read_head),
    "networks": Target(_networks, _check_network),
    "checkpoints": Target(_checkpoints, _read_checkpoint),
    "footers": Target(_shards, _read_footer),
    "descriptions": Target(_descriptions, _open_bundle),
    "catalogues": Target(_catalogues, _read_catalogue),
    "questions": Target(_questions, _ask),
}
