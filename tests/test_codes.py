"""Codes against their definition: one bit at a time, in plain Python."""

import subprocess
import sys

import numpy as np
import pytest
from bitarray import bitarray, frozenbitarray
from hypothesis import given
from hypothesis import strategies as st

from hashnet import codes
from hashnet.errors import ArgumentError, ShapeError

bit_lists = st.lists(st.booleans(), min_size=1, max_size=codes.MAX_BITS)


def pack_slowly(bits):
    """Write the bits as text, first bit first, fill up with zeros, read eight at a time."""
    text = "".join("1" if bit else "0" for bit in bits)
    text += "0" * (-len(text) % 8)
    return [int(text[start : start + 8], 2) for start in range(0, len(text), 8)]


@given(bit_lists)
def test_packing_is_what_the_definition_says_and_unpacking_reverses_it(bits):
    code = codes.pack(np.array(bits))
    assert code.dtype == np.uint8
    assert code.tolist() == pack_slowly(bits)
    back = codes.unpack(code, len(bits))
    assert back.dtype == np.bool_
    assert back.tolist() == bits


@pytest.mark.parametrize("num_bits", [1, 7, 8, 9, 12, 48, 63, 64, 65, 128, 1023, 1024])
def test_many_items_are_packed_as_one_by_one(num_bits):
    bits = np.random.default_rng(num_bits).random((5, num_bits)) < 0.5
    together = codes.pack(bits)
    assert together.shape == (5, codes.code_bytes(num_bits)) == (5, -(-num_bits // 8))
    for item, code in zip(bits, together, strict=True):
        assert code.tolist() == codes.pack(item).tolist() == pack_slowly(item)
    assert np.array_equal(codes.unpack(together, num_bits), bits)


def test_the_first_bit_is_the_highest():
    assert codes.pack(np.array([True] + [False] * 7)).tolist() == [128]
    assert codes.pack(np.array([False] * 7 + [True])).tolist() == [1]
    assert codes.pack(np.array([True])).tolist() == [128]


def test_no_items_give_no_codes_of_the_right_length():
    none = codes.from_latent(np.zeros((0, 48), "float32"))
    assert none.shape == (0, 6) and none.dtype == np.uint8
    assert codes.unpack(none, 48).shape == (0, 48)


def test_a_latent_of_exactly_one_half_is_a_one():
    below = np.nextafter(np.float32(0.5), np.float32(0))
    latent = np.array([[0.0, below, 0.5, 1.0]], "float32")
    assert codes.threshold(latent).tolist() == [[False, False, True, True]]
    assert codes.from_latent(latent).tolist() == [[0b00110000]]


def test_many_latents_are_cut_as_one_by_one():
    latent = np.random.default_rng(0).random((5, 12))
    bits, code = codes.threshold(latent), codes.from_latent(latent)
    for number, item in enumerate(latent):
        assert codes.threshold(item).tolist() == bits[number].tolist() == (item >= 0.5).tolist()
        assert codes.from_latent(item).tolist() == code[number].tolist()
    with pytest.raises(ArgumentError, match="num_bits=1025"):
        codes.threshold(np.zeros(1025))


def test_a_latent_that_is_not_a_number_is_refused():
    latent = np.full((2, 3), 0.7, "float32")
    latent[1, 2] = np.nan
    with pytest.raises(ArgumentError, match="1 NaN among 6"):
        codes.threshold(latent)


@pytest.mark.parametrize(
    "latent", [np.array([0, 1]), np.array([True]), np.float32(0.5), np.zeros((1, 2, 3)), ["a"]]
)
def test_latents_of_another_kind_are_refused(latent):
    with pytest.raises(ShapeError, match="Received: latent"):
        codes.threshold(latent)


@pytest.mark.parametrize("bits", [np.array([0, 1], "uint8"), np.array(True), np.zeros((1, 1, 8))])
def test_bits_of_another_kind_are_refused(bits):
    with pytest.raises(ShapeError, match="Received: bits"):
        codes.pack(bits)


@pytest.mark.parametrize("num_bits", [0, -1, 1025, 12.0, "12", None])
def test_a_number_of_bits_out_of_range_is_refused(num_bits):
    with pytest.raises(ArgumentError, match="1 to 1024"):
        codes.code_bytes(num_bits)


@pytest.mark.parametrize("num_bits", [0, 1025])
def test_arrays_with_too_few_or_too_many_bits_are_refused(num_bits):
    with pytest.raises(ArgumentError, match=f"num_bits={num_bits}"):
        codes.pack(np.zeros((2, num_bits), bool))
    with pytest.raises(ArgumentError, match=f"num_bits={num_bits}"):
        codes.threshold(np.zeros((2, num_bits)))


def test_a_code_of_another_length_is_refused_naming_both():
    with pytest.raises(ShapeError, match="48 bits has 6 bytes.*8 bytes"):
        codes.validate(np.zeros((3, 8), "uint8"), 48)


@pytest.mark.parametrize(
    ("code", "received"),
    [
        (np.zeros((1, 2), "int8"), r"code.dtype=int8, code.shape=\(1, 2\)"),
        (np.zeros((1, 1, 2), "uint8"), r"code.dtype=uint8, code.shape=\(1, 1, 2\)"),
        (b"ab", "code of type bytes"),
    ],
)
def test_codes_of_another_kind_are_refused(code, received):
    with pytest.raises(ShapeError, match=f"Received: {received}"):
        codes.unpack(code, 16)


@pytest.mark.parametrize("num_bits", [1, 7, 9, 12, 47, 1023])
def test_every_bit_beyond_the_last_is_refused(num_bits):
    length = codes.code_bytes(num_bits)
    whole = codes.pack(np.ones(num_bits, bool))
    codes.validate(whole, num_bits)
    for place in range(num_bits, 8 * length):
        code = np.stack([whole, whole])
        code[1, -1] |= 128 >> place % 8
        with pytest.raises(ShapeError, match=f"1 of 2 codes.*num_bits={num_bits}"):
            codes.unpack(code, num_bits)


@given(bit_lists, st.sampled_from(["little", "big"]))
def test_a_bitarray_holds_the_same_bits_by_index(bits, endian):
    array = bitarray(bits, endian=endian)
    code = codes.from_bitarray(array)
    assert code.tolist() == pack_slowly(bits)
    assert array.tolist() == [int(bit) for bit in bits]
    back = codes.to_bitarray(code, len(bits))
    assert back.tolist() == [int(bit) for bit in bits]
    assert back.tobytes() == code.tobytes()


def test_a_frozen_bitarray_will_do():
    assert codes.from_bitarray(frozenbitarray("1010")).tolist() == [160]


def test_set_padding_inside_a_bitarray_does_not_leak_into_the_code():
    array = bitarray("11111111 11111111", endian="big")
    del array[12:]
    assert codes.from_bitarray(array).tolist() == [255, 240]


def test_a_bitarray_holds_exactly_one_code():
    with pytest.raises(ShapeError, match="one code"):
        codes.to_bitarray(np.zeros((2, 1), "uint8"), 8)
    with pytest.raises(ArgumentError, match="num_bits=0"):
        codes.from_bitarray(bitarray())
    with pytest.raises(ShapeError, match="str"):
        codes.from_bitarray("1010")


@given(st.data())
def test_bits_apart_are_counted_one_by_one_in_every_form(data):
    num_bits = data.draw(st.integers(1, 200))
    same_length = st.lists(st.booleans(), min_size=num_bits, max_size=num_bits)
    a, b = data.draw(same_length), data.draw(same_length)
    apart = sum(x != y for x, y in zip(a, b, strict=True))
    forms_of_a = [codes.pack(np.array(a)), bitarray(a, endian="little"), bitarray(a, endian="big")]
    forms_of_b = [codes.pack(np.array(b)), bitarray(b, endian="little"), bitarray(b, endian="big")]
    for one in forms_of_a:
        for other in forms_of_b:
            assert codes.hamming(one, other) == apart


def test_two_codes_of_different_lengths_are_not_compared():
    with pytest.raises(ShapeError, match="6 and 8 bytes"):
        codes.hamming(np.zeros(6, "uint8"), np.zeros(8, "uint8"))
    with pytest.raises(ShapeError, match="12 and 16 bits"):
        codes.hamming(bitarray(12), bitarray(16))
    with pytest.raises(ShapeError, match="2 bytes"):
        codes.hamming(np.zeros(1, "uint8"), bitarray(12))
    with pytest.raises(ShapeError, match="one code|One code"):
        codes.hamming(np.zeros((1, 2), "uint8"), np.zeros(2, "uint8"))
    with pytest.raises(ShapeError, match="int"):
        codes.hamming(3, 4)


def test_importing_codes_does_not_import_bitarray():
    program = "import sys, hashnet.codes; sys.exit('bitarray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
