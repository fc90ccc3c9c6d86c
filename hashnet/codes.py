"""Latents become bits, bits become codes: the one file that knows the bit order.

Bit 0 is the highest bit of byte 0, bit 8 the highest bit of byte 1, and so on; the last byte is
filled up with zeros. The zeros matter: they let whole bytes be compared, so that the number of
distance never depends on how many bits of the last byte are used.

Every function but the `bitarray` ones takes one item, `(num_bits,)`, or many, `(n, num_bits)`,
and returns as many.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

import numpy as np

from hashnet.errors import ArgumentError, ShapeError

if TYPE_CHECKING:
    from bitarray import bitarray

MAX_BITS = 1024


def code_bytes(num_bits: int) -> int:
    """Count the whole bytes that a code of `num_bits` bits takes.

    Args:
        num_bits: int, 1 to `MAX_BITS`.

    Returns:
        int. `num_bits` divided by 8, rounded up.

    Raises:
        ArgumentError: if `num_bits` is no integer or out of range.

    Example:
        >>> code_bytes(48), code_bytes(12)
        (6, 2)
    """
    try:
        whole = operator.index(num_bits)
    except TypeError:
        whole = 0
    if not 1 <= whole <= MAX_BITS:
        raise ArgumentError(
            f"The number of bits is an integer from 1 to {MAX_BITS}.",
            f"num_bits={num_bits!r}",
            "48 is the usual choice.",
        )
    return (whole + 7) // 8


def threshold(latent: np.ndarray) -> np.ndarray:
    """Cut latents at one half.

    Args:
        latent: float array of shape `(n, num_bits)` or `(num_bits,)`, 0 to 1.

    Returns:
        bits: bool array of the same shape; a latent of exactly .5 is a one.

    Raises:
        ShapeError: if `latent` is no float array of one or two axes.
        ArgumentError: if a latent is not a number, or `num_bits` is out of range.

    Example:
        >>> threshold(np.array([[0.1, 0.5, 0.9]], dtype="float32"))
        array([[False,  True,  True]])

    Reference:
        Lin et al., "Deep Learning of Binary Hash Codes for Fast Image Retrieval", CVPR
        Workshops 2015: the coarse-level search. (Its released code cuts strictly above .5.)
    """
    latent = np.asarray(latent)
    if latent.ndim not in (1, 2) or not np.issubdtype(latent.dtype, np.floating):
        raise ShapeError(
            "Latents are a float array of shape (n, num_bits) or (num_bits,).",
            _described("latent", latent),
            "Pass the sigmoid output of the hash layer as it is.",
        )
    code_bytes(latent.shape[-1])
    # A NaN compares as below one half and would pass for an honest zero.
    unknown = np.isnan(latent)
    if unknown.any():
        raise ArgumentError(
            "Latents are numbers.",
            f"{np.count_nonzero(unknown)} NaN among {latent.size} latents",
            "Look for NaN in the images or in the weights of the network.",
        )
    return latent >= 0.5


def pack(bits: np.ndarray) -> np.ndarray:
    """Pack bits into codes, first bit highest.

    Args:
        bits: bool array of shape `(n, num_bits)` or `(num_bits,)`.

    Returns:
        code: uint8 array of shape `(n, code_bytes)` or `(code_bytes,)`; the unused low bits of
            the last byte are zero.

    Raises:
        ShapeError: if `bits` is no bool array of one or two axes.
        ArgumentError: if `num_bits` is out of range.

    Example:
        >>> pack(np.array([[True, False, False, False, False, False, False, True, True]]))
        array([[129, 128]], dtype=uint8)
    """
    bits = np.asarray(bits)
    if bits.ndim not in (1, 2) or bits.dtype != np.bool_:
        raise ShapeError(
            "Bits are a bool array of shape (n, num_bits) or (num_bits,).",
            _described("bits", bits),
            "Make bits of latents with hashnet.codes.threshold.",
        )
    code_bytes(bits.shape[-1])
    return np.packbits(bits, axis=-1, bitorder="big")


def from_latent(latent: np.ndarray) -> np.ndarray:
    """Make codes of latents: `pack(threshold(latent))`.

    Args:
        latent: float array of shape `(n, num_bits)` or `(num_bits,)`, 0 to 1.

    Returns:
        code: uint8 array of shape `(n, code_bytes)` or `(code_bytes,)`.

    Raises:
        ShapeError, ArgumentError: as `threshold`.

    Example:
        >>> from_latent(np.array([0.5, 0.1, 0.7, 0.4], dtype="float32"))
        array([160], dtype=uint8)
    """
    return pack(threshold(latent))


def validate(code: np.ndarray, num_bits: int) -> None:
    """Refuse what is not a code of `num_bits` bits.

    Args:
        code: uint8 array of shape `(n, code_bytes)` or `(code_bytes,)`.
        num_bits: int, 1 to `MAX_BITS`.

    Raises:
        ShapeError: if dtype or length differ from those of such a code, or if a bit beyond
            `num_bits` is set, as it may be in a code of a longer kind.
        ArgumentError: if `num_bits` is out of range.

    Example:
        >>> validate(np.array([[255, 240]], dtype="uint8"), 12)
        >>> validate(np.array([[255, 248]], dtype="uint8"), 12)
        Traceback (most recent call last):
        ...
        hashnet.errors.ShapeError: Bits beyond the last one of a code are zero. Received: 1 of 1 \
codes with a bit set beyond num_bits=12. Were the codes made with another number of bits?
    """
    length = code_bytes(num_bits)
    if not isinstance(code, np.ndarray) or code.dtype != np.uint8 or code.ndim not in (1, 2):
        raise ShapeError(
            f"A code is a uint8 array of shape (n, {length}) or ({length},).",
            _described("code", code),
            "Make codes with hashnet.codes.pack.",
        )
    if code.shape[-1] != length:
        raise ShapeError(
            f"A code of {num_bits} bits has {length} bytes.",
            f"code.shape={code.shape}, that is {code.shape[-1]} bytes",
            "Was the code made by another model?",
        )
    padding_bits = 8 * length - num_bits
    padding = code[..., -1] & np.uint8((1 << padding_bits) - 1)
    if padding.any():
        raise ShapeError(
            "Bits beyond the last one of a code are zero.",
            f"{np.count_nonzero(padding)} of {padding.size} codes with a bit set beyond "
            f"num_bits={num_bits}",
            "Were the codes made with another number of bits?",
        )


def unpack(code: np.ndarray, num_bits: int) -> np.ndarray:
    """Unpack codes into bits, the reverse of `pack`.

    Args:
        code: uint8 array of shape `(n, code_bytes)` or `(code_bytes,)`.
        num_bits: int, 1 to `MAX_BITS`.

    Returns:
        bits: bool array of shape `(n, num_bits)` or `(num_bits,)`.

    Raises:
        ShapeError, ArgumentError: as `validate`.

    Example:
        >>> unpack(np.array([160], dtype="uint8"), 4)
        array([ True, False,  True, False])
    """
    validate(code, num_bits)
    return np.unpackbits(code, axis=-1, count=num_bits, bitorder="big").view(np.bool_)


def to_bitarray(code: np.ndarray, num_bits: int) -> bitarray:
    """Turn one code into a `bitarray`, bit by bit in the same order.

    Args:
        code: uint8 array of shape `(code_bytes,)`.
        num_bits: int, 1 to `MAX_BITS`.

    Returns:
        bitarray of length `num_bits`, big-endian, so that its `tobytes()` is the code.

    Raises:
        ShapeError, ArgumentError: as `validate`, and ShapeError if there is more than one code.

    Example:
        >>> to_bitarray(np.array([160], dtype="uint8"), 4)
        bitarray('1010')
    """
    from bitarray import bitarray

    validate(code, num_bits)
    if code.ndim != 1:
        raise ShapeError(
            "A bitarray holds one code.",
            f"code.shape={code.shape}",
            "Take one item of the array, code[0] for the first.",
        )
    bits = bitarray(endian="big")
    bits.frombytes(code.tobytes())
    return bits[:num_bits]


def from_bitarray(bits: bitarray) -> np.ndarray:
    """Turn a `bitarray` into one code, bit by bit in the same order.

    Bits are taken by index: a little-endian bitarray gives the same code as a big-endian one
    that lists the same bits.

    Args:
        bits: bitarray of length `num_bits`, 1 to `MAX_BITS`, of either endianness.

    Returns:
        code: uint8 array of shape `(code_bytes,)`.

    Raises:
        ShapeError: if `bits` is no bitarray.
        ArgumentError: if its length is out of range.

    Example:
        >>> from bitarray import bitarray
        >>> from_bitarray(bitarray("1010", endian="little"))
        array([160], dtype=uint8)
    """
    from bitarray import bitarray

    if not isinstance(bits, bitarray):
        raise ShapeError(
            "Bits of one code come as a bitarray.",
            f"bits of type {type(bits).__name__}",
            "Pack a NumPy array of bits with hashnet.codes.pack instead.",
        )
    code_bytes(len(bits))
    return np.frombuffer(bitarray(bits, endian="big").tobytes(), dtype=np.uint8).copy()


def hamming(a: np.ndarray | bitarray, b: np.ndarray | bitarray) -> int:
    """Count the bits in which two codes differ.

    Args:
        a: uint8 array of shape `(code_bytes,)`, or a bitarray.
        b: one code of the same length, in either form.

    Returns:
        int. Hamming distance, 0 to the number of bits.

    Raises:
        ShapeError: if the two differ in length, or if either is not one code.

    Example:
        >>> hamming(np.array([0b1010], dtype="uint8"), np.array([0b0011], dtype="uint8"))
        2
        >>> from bitarray import bitarray
        >>> hamming(bitarray("1010"), bitarray("0011"))
        2
    """
    first, second = _one_code(a), _one_code(b)
    if len(first) != len(second):
        raise ShapeError(
            "Two codes that are compared have the same length.",
            f"{len(first)} and {len(second)} bytes",
            "Were they made by two models?",
        )
    # Only bitarrays tell 12 bits from 16, which take two bytes both.
    if not isinstance(a, np.ndarray) and not isinstance(b, np.ndarray) and len(a) != len(b):
        raise ShapeError(
            "Two codes that are compared have the same number of bits.",
            f"{len(a)} and {len(b)} bits",
            "Were they made by two models?",
        )
    return int(np.bitwise_count(first ^ second).sum())


def _one_code(code: np.ndarray | bitarray) -> np.ndarray:
    if not isinstance(code, np.ndarray):
        return from_bitarray(code)
    if code.ndim != 1 or code.dtype != np.uint8:
        raise ShapeError(
            "One code is a uint8 array of shape (code_bytes,).",
            _described("code", code),
            "Take one item of an array of codes, code[0] for the first.",
        )
    return code


def _described(name: str, value: object) -> str:
    if not isinstance(value, np.ndarray):
        return f"{name} of type {type(value).__name__}"
    return f"{name}.dtype={value.dtype}, {name}.shape={value.shape}"
