"""Good bytes with some of them changed, by a seed."""

# What lengths, counts and offsets go wrong at.
NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63)
MOST_BYTES = 2**16


def mutated(rng, corpus):
    """One of the corpus, changed in up to eight places.

    Args:
        rng: random.Random.
        corpus: list of bytes.

    Returns:
        bytes.
    """
    data = bytearray(rng.choice(corpus))
    for _ in range(rng.randrange(1, 9)):
        rng.choice((_bit, _byte, _number, _number, _insert, _remove, _repeat, _splice))(
            rng, data, corpus
        )
    if rng.random() < 0.05:
        del data[rng.randrange(len(data) + 1) :]
    return bytes(data[:MOST_BYTES])


def _place(rng, data):
    """Somewhere, more often near the beginning or the end, where headers and footers are."""
    end = min(len(data), rng.choice((16, 64, 400, MOST_BYTES)))
    at = rng.randrange(end) if end else 0
    return at if rng.random() < 0.8 else max(0, len(data) - 1 - at)


def _bit(rng, data, _corpus):
    if data:
        data[_place(rng, data)] ^= 1 << rng.randrange(8)


def _byte(rng, data, _corpus):
    if data:
        data[_place(rng, data)] = rng.randrange(256)


def _number(rng, data, _corpus):
    size = rng.choice((1, 2, 4, 8))
    number = rng.choice(NUMBERS) % 2 ** (8 * size)
    at = _place(rng, data)
    data[at : at + size] = number.to_bytes(size, rng.choice(("little", "big")))


def _insert(rng, data, _corpus):
    at = _place(rng, data)
    data[at:at] = rng.randbytes(rng.randrange(1, 9))


def _remove(rng, data, _corpus):
    at = _place(rng, data)
    del data[at : at + rng.randrange(1, 33)]


def _repeat(rng, data, _corpus):
    at = _place(rng, data)
    data[at:at] = data[at : at + rng.randrange(1, 65)] * rng.choice((1, 2, 100))


def _splice(rng, data, corpus):
    other = rng.choice(corpus)
    at, start = _place(rng, data), _place(rng, other)
    data[at : at + 64] = other[start : start + rng.randrange(1, 257)]
