"""The compiled loops of coarse and fine search (Numba).

Import this module only where compiled code is wanted: importing it imports Numba.
Every kernel releases the GIL, takes a range of rows `first..last` so that threads can share the
work, and gives the same answer however the rows are shared out.

Conventions inside: `words` are the codes as a flat uint64 array, `num_words` of them a row.
A query is a tuple of uint64 up to four words, which LLVM unrolls and vectorises over rows
(vpopcntq where the processor has it), and an array beyond that. Indices are unsigned, because
Numba's wrap-around of negative indices would keep the loops from being vectorised.
`live` and `allowed` are bool arrays over rows; of length 0, they let every row pass.
"""

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, overload

BLOCK_ROWS = 1024
# Smaller where most blocks of the larger size would hold a row that is near enough.
NEAREST_BLOCK_ROWS = 256
STRIP_ROWS = 64
MAX_TUPLE_WORDS = 4

_U = np.uint64
_BLOCK = np.uint64(BLOCK_ROWS)
_NEAREST_BLOCK = np.uint64(NEAREST_BLOCK_ROWS)
_STRIP = np.uint64(STRIP_ROWS)
# So many words of codes are compared while those so many words further on are asked for: a page,
# at whose end the processor's own guesses stop.
_CHUNK_WORDS = np.uint64(256)
_WORDS_AHEAD = np.uint64(512)
# Fewer words stay in the last cache, where asking costs more than it gains.
_WORDS_IN_CACHE = 1 << 20
# Binary digits of a step of certainty, see hashnet.retrieval.search.ranking.
_DIGITS = 4
_NO_CODE = np.uint32(0xFFFFFFFF)
# A first look is at one row in so many, if that makes so many strips, and at no more than those.
_SAMPLED_OF = 16
_LEAST_STRIPS = 32
_MOST_STRIPS = np.uint64(256)
# Running sums of squares, as hashnet.retrieval.search.fine says.
_NUM_SUMS = 64
# Reckoned in float32 first are pools of so many times the rows that are asked for.
_ROUGH_FROM = 2
# Squares below that of the first vanish in float32 or lose digits; sums near the second overflow.
_LEAST_ROOT = 2.0**-60
_LARGEST_SQUARE = 2.0**120
_REGISTER_BYTES = 64
_LINE_BYTES = 64


def _compiled(function):
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no folder to keep compiled code in: compile once a process
        return numba.njit(nogil=True)(function)


def _inlined(function):
    return numba.njit(nogil=True)(function)


@intrinsic
def _popcount(_context, word):
    def codegen(_target, builder, _signature, arguments):
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), codegen


@intrinsic
def _lowest_bit(_context, word):
    def codegen(_target, builder, _signature, arguments):
        return builder.cttz(arguments[0], ir.IntType(1)(0))

    return types.uint64(types.uint64), codegen


def query_like(queries):
    """Return what tells the kernels, by its type, how many words a query has.

    Args:
        queries: uint64 `(num_queries, num_words)`.

    Returns:
        tuple of `num_words` uint64, or uint64 `(num_words,)` beyond `MAX_TUPLE_WORDS`; only the
        type counts.
    """
    num_words = queries.shape[1]
    return (_U(0),) * num_words if num_words <= MAX_TUPLE_WORDS else queries[0]


def _query_at(queries, number, like):
    raise NotImplementedError("compiled only")


@overload(_query_at)
def _query_at_overload(queries, number, like):
    if not isinstance(like, types.UniTuple):
        return lambda queries, number, like: queries[number]
    if like.count == 1:
        return lambda queries, number, like: (queries[number, 0],)
    if like.count == 2:
        return lambda queries, number, like: (queries[number, 0], queries[number, 1])
    if like.count == 3:
        return lambda queries, number, like: (
            queries[number, 0],
            queries[number, 1],
            queries[number, 2],
        )
    return lambda queries, number, like: (
        queries[number, 0],
        queries[number, 1],
        queries[number, 2],
        queries[number, 3],
    )


@_inlined
def _bits_apart(words, row, query):
    total = _U(0)
    for word in range(_U(len(query))):
        total += _popcount(words[row * _U(len(query)) + word] ^ query[word])
    return total


@_inlined
def _count_below(words, query, limit, start, stop):
    count = _U(0)
    for row in range(start, stop):
        count += _U(_bits_apart(words, row, query) < limit)
    return count


@_inlined
def _count_block(words, query, limit, start, stop, first):
    """Count as `_count_below` does; for the first query the codes may not be in the cache yet."""
    if not first or words.size < _WORDS_IN_CACHE:
        return _count_below(words, query, limit, start, stop)
    width = _U(len(query))
    step = max(_CHUNK_WORDS // width, _STRIP)
    count = _U(0)
    for chunk in range(start, stop, step):
        chunk_end = min(chunk + step, stop)
        for word in range(chunk * width, chunk_end * width, _U(8)):
            _prefetch(words, word + _WORDS_AHEAD)
        count += _count_below(words, query, limit, chunk, chunk_end)
    return count


@_inlined
def _marks_below(words, query, limit, start, stop):
    """Return a word whose bit i says that row start + i is under the limit; 64 rows at most."""
    if stop - start == _STRIP:
        return _marks_of_strip(words, query, limit, start)
    return _marks_one_by_one(words, query, limit, start, stop)


@_inlined
def _marks_one_by_one(words, query, limit, start, stop):
    marks = _U(0)
    for row in range(start, stop):
        marks |= _U(_bits_apart(words, row, query) < limit) << (row - start)
    return marks


def _marks_of_strip(words, query, limit, start):
    raise NotImplementedError("compiled only")


@overload(_marks_of_strip)
def _marks_of_strip_overload(words, query, limit, start):
    if isinstance(query, types.UniTuple) and query.count in (1, 2, 4):
        return lambda words, query, limit, start: _marks_by_lanes(words, query, limit, start)
    return lambda words, query, limit, start: _marks_one_by_one(
        words, query, limit, start, start + _STRIP
    )


@intrinsic
def _marks_by_lanes(_context, words, query, limit, start):
    """The marks of 64 rows of one, two or four words, eight rows at a time.

    A comparison of lanes is bits already; a loop over rows would shift each to its place, which
    takes a search of a million rows a tenth longer for codes of one word, a fourth for two.
    """
    width, rows_at_once = query.count, 8

    def codegen(context, builder, signature, arguments):
        word = ir.IntType(64)
        lanes = ir.VectorType(word, rows_at_once)
        count_bits = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(lanes, [lanes]), f"llvm.ctpop.v{rows_at_once}i64"
        )
        first = builder.mul(arguments[3], word(width))
        first = builder.gep(_start(context, builder, signature, arguments, 0), [first])
        asked = cgutils.unpack_tuple(builder, arguments[1], width)

        def filled(values):
            vector = ir.Constant(lanes, ir.Undefined)
            for lane in range(rows_at_once):
                vector = builder.insert_element(
                    vector, values[lane % len(values)], ir.IntType(32)(lane)
                )
            return vector

        def sums_of_pairs(left, right):
            places = ir.VectorType(ir.IntType(32), rows_at_once)
            even, odd = (
                builder.shuffle_vector(
                    left, right, ir.Constant(places, list(range(parity, 2 * rows_at_once, 2)))
                )
                for parity in (0, 1)
            )
            return builder.add(even, odd)

        asked, limit = filled(asked), filled([arguments[2]])
        marks = word(0)
        for group in range(0, STRIP_ROWS, rows_at_once):
            counts = []
            for part in range(width):
                at = builder.gep(first, [word(group * width + part * rows_at_once)])
                codes = builder.load(builder.bitcast(at, lanes.as_pointer()), align=8)
                counts.append(builder.call(count_bits, [builder.xor(codes, asked)]))
            while len(counts) > 1:
                counts = [
                    sums_of_pairs(*pair) for pair in zip(counts[::2], counts[1::2], strict=True)
                ]
            below = builder.icmp_unsigned("<", counts[0], limit)
            below = builder.zext(builder.bitcast(below, ir.IntType(rows_at_once)), word)
            marks = builder.or_(marks, builder.shl(below, word(group)))
        return marks

    return types.uint64(words, query, types.uint64, types.uint64), codegen


def _start(context, builder, signature, arguments, place):
    """Pointer to the first element of an argument that is an array."""
    array = context.make_array(signature.args[place])(context, builder, arguments[place])
    return array.data


@numba.njit(inline="always")  # a call would count references to its arrays up and down, per row
def _passes(live, allowed, row):
    passes = True
    if live.size != 0:
        passes = live[row]
    if allowed.size != 0:
        passes &= allowed[row]
    return passes


@_inlined
def _room(array, used, more):
    if used + more <= array.size:
        return array
    larger = np.empty(2 * (used + more), array.dtype)
    larger[:used] = array[:used]
    return larger


@_compiled
def within(words, queries, like, threshold, live, allowed, first, last):
    """Find the rows fewer than `threshold` bits from each query.

    A block of codes is compared with every query while it is in the cache. A vectorised count
    says whether the block, then a strip of it, holds anything; only such strips are written out.

    Args:
        words: uint64 `(n * num_words,)`.
        queries: uint64 `(num_queries, num_words)`.
        like: from `query_like`.
        threshold: int, bits.
        live, allowed: bool `(n,)`, or of length 0.
        first, last: int. The range of rows, `last` not included.

    Returns:
        rows int64 and bits int32, in runs; run_query and run_start int64, where each run belongs.
        A query's runs come in the order of rows.
    """
    limit, last = _U(threshold), _U(last)
    rows, bits = np.empty(256, np.int64), np.empty(256, np.int32)
    run_query, run_start = np.empty(16, np.int64), np.empty(16, np.int64)
    used, runs = _U(0), _U(0)
    for block in range(_U(first), last, _BLOCK):
        block_end = min(block + _BLOCK, last)
        for number in range(len(queries)):
            query = _query_at(queries, number, like)
            count = _count_block(words, query, limit, block, block_end, number == 0)
            if count == 0:
                continue
            rows, bits = _room(rows, used, count), _room(bits, used, count)
            run_query, run_start = _room(run_query, runs, 1), _room(run_start, runs, 1)
            run_query[runs], run_start[runs] = number, used
            for strip in range(block, block_end, _STRIP):
                strip_end = min(strip + _STRIP, block_end)
                marks = _marks_below(words, query, limit, strip, strip_end)
                while marks != 0:
                    row = strip + _lowest_bit(marks)
                    marks &= marks - _U(1)
                    if _passes(live, allowed, row):
                        rows[used], bits[used] = row, _bits_apart(words, row, query)
                        used += _U(1)
            runs += _U(used > _U(run_start[runs]))
    return rows[:used], bits[:used], run_query[:runs], run_start[:runs]


@_compiled
def group_runs(rows, bits, run_query, run_start, num_queries):
    """Bring the runs of `within` together by query.

    Args:
        rows, bits, run_query, run_start: as `within` returns them.
        num_queries: int.

    Returns:
        rows int64 and bits int32, query after query; and int64 `(num_queries + 1,)` borders.
    """
    borders = np.zeros(num_queries + 1, np.int64)
    for run in range(len(run_query)):
        end = run_start[run + 1] if run + 1 < len(run_query) else len(rows)
        borders[run_query[run] + 1] += end - run_start[run]
    borders = np.cumsum(borders)
    filled = borders[:-1].copy()
    grouped_rows, grouped_bits = np.empty_like(rows), np.empty_like(bits)
    for run in range(len(run_query)):
        start = run_start[run]
        end = run_start[run + 1] if run + 1 < len(run_query) else len(rows)
        to = filled[run_query[run]]
        grouped_rows[to : to + end - start] = rows[start:end]
        grouped_bits[to : to + end - start] = bits[start:end]
        filled[run_query[run]] = to + end - start
    return grouped_rows, grouped_bits, borders


@_compiled
def histogram(words, queries, like, live, allowed, first, last):
    """Count the rows at each number of bits from the first query.

    Args:
        words, queries, like, live, allowed, first, last: see `within`.

    Returns:
        int64 `(num_words * 64 + 1,)`; element d counts the rows at Hamming distance d.
    """
    query = _query_at(queries, 0, like)
    # Four counters a bin in turn: neighbours in one bin need not wait for each other's store.
    counts = np.zeros((4, queries.shape[1] * 64 + 1), np.int64)
    for row in range(_U(first), _U(last)):
        if _passes(live, allowed, row):
            counts[row & _U(3), _bits_apart(words, row, query)] += 1
    return counts.sum(axis=0)


@_inlined
def _keep_nearest(rows, bits, used, limit, ties):
    """Move what is under the limit, and the first `ties` at it, to the front; return how many."""
    kept = 0
    for at in range(used):
        tie = bits[at] == limit and ties > 0
        if bits[at] < limit or tie:
            rows[kept], bits[kept] = rows[at], bits[at]
            kept += 1
            ties -= int(tie)
    return kept


@_inlined
def _limit_holding(counts, wanted):
    """Return the least number of bits within which `counts` holds so many, or the last there is."""
    limit, held = np.int64(0), counts[0]
    while held < wanted and limit < counts.size - 1:
        limit += 1
        held += counts[limit]
    return limit


@_inlined
def _likely_limit(words, query, k, live, allowed, first, last, max_bits):
    """Return a distance within which there are probably `k` rows of a range, and not many more.

    Without it a search begins by writing out every row and learns slowly what is near. Read off
    a sample of strips that lie evenly in the range; `max_bits` where a sample says too little.
    """
    num_strips = min((last - first) // _U(_SAMPLED_OF * STRIP_ROWS), _MOST_STRIPS)
    if num_strips < _LEAST_STRIPS:
        return np.int64(max_bits)
    share = float(k) * float(num_strips) * STRIP_ROWS / float(last - first)
    wanted = np.int64(share + 3 * np.sqrt(share) + 4)
    if wanted * 4 > np.int64(num_strips) * STRIP_ROWS:
        return np.int64(max_bits)
    counts = np.zeros(max_bits + 1, np.int64)
    for number in range(num_strips):
        start = first + number * (last - first) // num_strips
        for row in range(start, start + _STRIP):
            if _passes(live, allowed, row):
                counts[_bits_apart(words, row, query)] += 1
    return _limit_holding(counts, wanted)


@_compiled
def nearest(words, queries, like, k, live, allowed, first, last):
    """Find each query's `k` nearest rows of a range, by bits and then by row.

    One pass, and another for queries whose likely limit was too low. `limits` holds each query's
    k-th smallest distance so far; rows come in ascending order, so a row that only equals it has
    lost to an earlier one, and a block with nothing below it is passed over by the vectorised
    count alone.

    Args:
        words, queries, like, live, allowed, first, last: see `within`.
        k: int, 1 or more.

    Returns:
        rows int64 `(num_queries, m)`, bits int32 `(num_queries, m)`, m the most found, and
        held int64 `(num_queries,)`, how many each query found.
    """
    num_queries, max_bits = len(queries), queries.shape[1] * 64
    k, first, last = min(k, last - first), _U(first), _U(last)
    room = 2 * k + STRIP_ROWS
    rows, bits = np.empty((num_queries, room), np.int64), np.empty((num_queries, room), np.int32)
    used, below = np.zeros(num_queries, np.int64), np.zeros(num_queries, np.int64)
    limits = np.ones(num_queries, np.int64)
    counts = np.zeros((num_queries, max_bits + 2), np.int64)
    for number in range(num_queries):
        query = _query_at(queries, number, like)
        limits[number] += _likely_limit(words, query, k, live, allowed, first, last, max_bits)
    likely, wanted = limits.copy(), np.arange(num_queries)
    while len(wanted) != 0:
        _nearest_below(
            words, queries, like, k, live, allowed, first, last,
            wanted, limits, below, counts, rows, bits, used,
        )  # fmt: skip
        wanted = wanted[(limits[wanted] == likely[wanted]) & (likely[wanted] <= max_bits)]
        for number in wanted:
            limits[number], likely[number] = max_bits + 1, max_bits + 1
            below[number], used[number], counts[number] = 0, 0, 0
    for number in range(num_queries):
        used[number] = _keep_nearest(
            rows[number], bits[number], used[number], limits[number], k - below[number]
        )
        _sort_by_bits(rows[number], bits[number], used[number], max_bits)
    return rows[:, :k], bits[:, :k], used


@_inlined
def _nearest_below(
    words, queries, like, k, live, allowed, first, last,
    wanted, limits, below, counts, rows, bits, used,
):  # fmt: skip
    """Make the pass of `nearest`, for the queries `wanted`, over rows below their limits."""
    room = rows.shape[1]
    # Where most blocks hold a row, to count first is to read them twice.
    sparse = _U(4 * k) * _NEAREST_BLOCK < last - first
    for block in range(first, last, _NEAREST_BLOCK):
        block_end = min(block + _NEAREST_BLOCK, last)
        for at in range(len(wanted)):
            number = wanted[at]
            query = _query_at(queries, number, like)
            limit, under, filled = limits[number], below[number], used[number]
            if sparse and _count_block(words, query, _U(limit), block, block_end, at == 0) == 0:
                continue
            for strip in range(block, block_end, _STRIP):
                strip_end = min(strip + _STRIP, block_end)
                marks = _marks_below(words, query, _U(limit), strip, strip_end)
                if marks == 0:
                    continue
                if filled + STRIP_ROWS > room:
                    filled = _keep_nearest(rows[number], bits[number], filled, limit, k - under)
                while marks != 0:
                    row = strip + _lowest_bit(marks)
                    marks &= marks - _U(1)
                    if _passes(live, allowed, row):
                        apart = np.int64(_bits_apart(words, row, query))
                        rows[number, filled], bits[number, filled] = row, apart
                        counts[number, apart] += 1
                        filled += 1
                        under += 1
                while under >= k:
                    limit -= 1
                    under -= counts[number, limit]
            limits[number], below[number], used[number] = limit, under, filled


@_inlined
def _sort_by_bits(rows, bits, used, max_bits):
    """Sort the first `used` entries by bits, leaving equals in their order."""
    starts = np.zeros(max_bits + 2, np.int64)
    for at in range(used):
        starts[bits[at] + 1] += 1
    starts = np.cumsum(starts)
    old_rows, old_bits = rows[:used].copy(), bits[:used].copy()
    for at in range(used):
        to = starts[old_bits[at]]
        rows[to], bits[to] = old_rows[at], old_bits[at]
        starts[old_bits[at]] = to + 1


@_compiled
def pool(words, queries, like, k, live, allowed, first, last):
    """Find the first query's `k` nearest rows of a range and all that tie with the last.

    One pass, as `nearest` makes it, but a row that equals the k-th smallest distance stays.

    Args:
        words, queries, like, live, allowed, first, last: see `within`.
        k: int, 1 or more.

    Returns:
        rows int64, ascending; bits int32; and counts int64, the rows at each number of bits up
        to the k-th row's, or at every number where rows are fewer than `k`.
    """
    query = _query_at(queries, 0, like)
    max_bits, first, last = queries.shape[1] * 64, _U(first), _U(last)
    likely = _likely_limit(words, query, k, live, allowed, first, last, max_bits)
    rows, bits, counts, held = _pool_within(words, query, likely, k, live, allowed, first, last)
    if held < k and likely < max_bits:
        rows, bits, counts, held = _pool_within(
            words, query, max_bits, k, live, allowed, first, last
        )
    return rows, bits, counts


@_inlined
def _pool_within(words, query, limit, k, live, allowed, first, last):
    """As `pool`, of rows at most `limit` bits from the query; and how many rows it counted."""
    held, counts = np.int64(0), np.zeros(limit + 1, np.int64)
    rows, bits, used = np.empty(512, np.int64), np.empty(512, np.int32), 0
    # Where most blocks hold a row, to count first is to read them twice.
    sparse = _U(4 * k) * _NEAREST_BLOCK < last - first
    for block in range(first, last, _NEAREST_BLOCK):
        block_end = min(block + _NEAREST_BLOCK, last)
        if sparse and _count_block(words, query, _U(limit + 1), block, block_end, True) == 0:
            continue
        for strip in range(block, block_end, _STRIP):
            strip_end = min(strip + _STRIP, block_end)
            marks = _marks_below(words, query, _U(limit + 1), strip, strip_end)
            if marks == 0:
                continue
            if used + STRIP_ROWS > rows.size:
                used = _keep_nearest(rows, bits, used, limit, used)
                if 2 * used > rows.size:
                    rows = _room(rows, used, rows.size)
                    bits = _room(bits, used, bits.size)
            while marks != 0:
                row = strip + _lowest_bit(marks)
                marks &= marks - _U(1)
                if _passes(live, allowed, row):
                    apart = _bits_apart(words, row, query)
                    rows[used], bits[used] = row, apart
                    used += 1
                    counts[apart] += 1
                    held += 1
            while held - counts[limit] >= k:
                held -= counts[limit]
                limit -= 1
    used = _keep_nearest(rows, bits, used, limit, used)
    return rows[:used], bits[:used], counts[: limit + 1], held


@_inlined
def _steps_apart(words, row, query, planes):
    """Add up the certainty, in steps of four binary digits, of the bits in which a row differs."""
    width, total = _U(len(query)), _U(0)
    for word in range(width):
        differing = words[row * width + word] ^ query[word]
        for digit in range(_U(_DIGITS)):
            total += _popcount(differing & planes[digit * width + word]) << digit
    return total


@_inlined
def _likely_steps(words, query, planes, k, live, allowed, first, last, most):
    """As `_likely_limit`, in steps of certainty."""
    num_strips = min((last - first) // _U(_SAMPLED_OF * STRIP_ROWS), _MOST_STRIPS)
    if num_strips < _LEAST_STRIPS:
        return np.int64(most)
    share = float(k) * float(num_strips) * STRIP_ROWS / float(last - first)
    wanted = np.int64(share + 3 * np.sqrt(share) + 4)
    if wanted * 4 > np.int64(num_strips) * STRIP_ROWS:
        return np.int64(most)
    counts = np.zeros(most + 1, np.int64)
    for number in range(num_strips):
        start = first + number * (last - first) // num_strips
        for row in range(start, start + _STRIP):
            if _passes(live, allowed, row):
                counts[_steps_apart(words, row, query, planes)] += 1
    return _limit_holding(counts, wanted)


@_compiled
def pool_by_steps(words, queries, like, planes, most, k, live, allowed, first, last):
    """Find the rows of a range whose differing bits weigh least, and all that tie with the k-th.

    Args:
        words, queries, like, live, allowed, first, last: see `within`; of one query.
        planes: uint64 `(4 * num_words,)`, a tuple of so many up to `MAX_TUPLE_WORDS`: for each of
            four binary digits, the lowest first, the bits whose steps of certainty have it.
        most: int. The sum of the steps of all bits.
        k: int, 1 or more.

    Returns:
        As `pool`, with steps of certainty for bits.
    """
    query, first, last = _query_at(queries, 0, like), _U(first), _U(last)
    likely = _likely_steps(words, query, planes, k, live, allowed, first, last, most)
    rows, steps, counts, held = _pool_within_steps(
        words, query, planes, likely, k, live, allowed, first, last
    )
    if held < k and likely < most:
        rows, steps, counts, held = _pool_within_steps(
            words, query, planes, np.int64(most), k, live, allowed, first, last
        )
    return rows, steps, counts


@_inlined
def _pool_within_steps(words, query, planes, limit, k, live, allowed, first, last):
    """As `_pool_within`, of rows at most `limit` steps from the query."""
    held, counts = np.int64(0), np.zeros(limit + 1, np.int64)
    rows, steps, used = np.empty(512, np.int64), np.empty(512, np.int32), 0
    apart = np.empty(BLOCK_ROWS, np.int32)
    for block in range(first, last, _BLOCK):
        num_rows = min(_BLOCK, last - block)
        for at in range(num_rows):
            apart[at] = np.int32(_steps_apart(words, block + at, query, planes))
        for strip in range(_U(0), num_rows, _STRIP):
            strip_end = min(strip + _STRIP, num_rows)
            if _none_within(apart, np.int32(limit), strip, strip_end):
                continue
            if used + STRIP_ROWS > rows.size:
                used = _keep_nearest(rows, steps, used, limit, used)
                if 2 * used > rows.size:
                    rows = _room(rows, used, rows.size)
                    steps = _room(steps, used, steps.size)
            for at in range(strip, strip_end):
                if apart[at] <= limit and _passes(live, allowed, block + at):
                    rows[used], steps[used] = block + at, apart[at]
                    used += 1
                    counts[apart[at]] += 1
                    held += 1
            while held - counts[limit] >= k:
                held -= counts[limit]
                limit -= 1
    used = _keep_nearest(rows, steps, used, limit, used)
    return rows[:used], steps[:used], counts[: limit + 1], held


@_inlined
def _none_within(apart, limit, start, stop):
    count = np.int32(0)
    for at in range(start, stop):
        count += np.int32(apart[at] <= limit)
    return count == 0


@intrinsic
def _half_to_float(_context, half):
    def codegen(_target, builder, _signature, arguments):
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), codegen


def _value(stored):
    raise NotImplementedError("compiled only")


@overload(_value, inline="always")
def _value_overload(stored):
    if stored == types.uint16:
        return lambda stored: np.float64(_half_to_float(stored))
    return lambda stored: np.float64(stored)


@intrinsic
def _prefetch(_context, array, at):
    """Ask for the cache line of `array[at]`; a flat array, and never a fault."""

    def codegen(context, builder, signature, arguments):
        data = _start(context, builder, signature, arguments, 0)
        _prefetch_line(builder, builder.gep(data, [arguments[1]]), to_cache=1)
        return context.get_dummy_value()

    return types.void(array, at), codegen


def _prefetch_line(builder, pointer, to_cache):
    """Ask for a cache line, to the first or the second cache."""
    line, number = ir.IntType(8).as_pointer(), ir.IntType(32)
    function = builder.module.declare_intrinsic(
        "llvm.prefetch", [line], ir.FunctionType(ir.VoidType(), [line, number, number, number])
    )
    locality = number(4 - to_cache)
    builder.call(function, [builder.bitcast(pointer, line), number(0), locality, number(1)])


@intrinsic
def _square_whole_groups(_context, flat, at, following, query, whole, sums):
    """Fill `sums` with the squares of the row at `flat[at]`, as far as whole groups of 64 go.

    The sums stay in registers all along, which a loop over an array of them does not give. Rows
    lie apart, so the processor cannot guess the next one, at `flat[following]`: it is asked for,
    to the second cache, since so many lines under way to the first would hold up this row's own.
    """

    def codegen(context, builder, signature, arguments):
        number, single = ir.IntType(64), ir.FloatType()
        half = signature.args[0].dtype == types.uint16
        exact = signature.args[3].dtype == types.float64
        sum_type, sum_bytes = (ir.DoubleType(), 8) if exact else (single, 4)
        stored_type, stored_bytes = (ir.HalfType(), 2) if half else (single, 4)
        num_lanes = _REGISTER_BYTES // sum_bytes
        flat, query, sums = (
            _start(context, builder, signature, arguments, place) for place in (0, 3, 5)
        )
        at, following, whole = (arguments[place] for place in (1, 2, 4))

        def lanes(kind):
            return ir.VectorType(kind, num_lanes)

        def place(array, offset, kind):
            return builder.bitcast(builder.gep(array, [offset]), lanes(kind).as_pointer())

        # Where it takes no more than to multiply and to add; only the rough sums may round less.
        multiply_add = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(lanes(sum_type), [lanes(sum_type)] * 3),
            f"llvm.fmuladd.v{num_lanes}f{8 * sum_bytes}",
        )
        firsts = range(0, _NUM_SUMS, num_lanes)
        totals = [cgutils.alloca_once(builder, lanes(sum_type)) for _ in firsts]
        for total in totals:
            builder.store(ir.Constant(lanes(sum_type), [0.0] * num_lanes), total)
        groups = builder.udiv(whole, number(_NUM_SUMS))
        with cgutils.for_range(builder, groups) as loop:
            group = builder.mul(loop.index, number(_NUM_SUMS))
            ahead = builder.add(following, group)
            for line in range(0, _NUM_SUMS, _LINE_BYTES // stored_bytes):
                pointer = builder.gep(flat, [builder.add(ahead, number(line))])
                _prefetch_line(builder, pointer, to_cache=2)
            for first, total in zip(firsts, totals, strict=True):
                offset = builder.add(group, number(first))
                value = place(flat, builder.add(at, offset), stored_type)
                value = builder.load(value, align=stored_bytes)
                for wider in [single] * half + [sum_type] * exact:
                    value = builder.fpext(value, lanes(wider))
                asked = builder.load(place(query, offset, sum_type), align=sum_bytes)
                difference = builder.fsub(value, asked)
                so_far = builder.load(total)
                if exact:
                    square = builder.fmul(difference, difference)
                    so_far = builder.fadd(so_far, square)
                else:
                    so_far = builder.call(multiply_add, [difference, difference, so_far])
                builder.store(so_far, total)
        for first, total in zip(firsts, totals, strict=True):
            to = place(sums, number(first), sum_type)
            builder.store(builder.load(total), to, align=sum_bytes)
        return context.get_dummy_value()

    return types.void(flat, types.uint64, types.uint64, query, types.uint64, sums), codegen


@intrinsic
def _centre_whole_groups(_context, flat, at, following, mean, query, whole, sums):
    """Fill `sums` with what float32 can tell of a row's direction from the mean.

    Of its first 64 each with squares of differences from the mean, of the next 64 each with
    products of those differences with the query, as far as whole groups of 64 go. For the rest
    see `_square_whole_groups`.
    """

    def codegen(context, builder, signature, arguments):
        number, single = ir.IntType(64), ir.FloatType()
        half = signature.args[0].dtype == types.uint16
        stored_type, stored_bytes = (ir.HalfType(), 2) if half else (single, 4)
        num_lanes = _REGISTER_BYTES // 4
        flat, mean, query, sums = (
            _start(context, builder, signature, arguments, place) for place in (0, 3, 4, 6)
        )
        at, following, whole = (arguments[place] for place in (1, 2, 5))

        def lanes(kind):
            return ir.VectorType(kind, num_lanes)

        def place(array, offset, kind):
            return builder.bitcast(builder.gep(array, [offset]), lanes(kind).as_pointer())

        multiply_add = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(lanes(single), [lanes(single)] * 3),
            f"llvm.fmuladd.v{num_lanes}f32",
        )
        firsts = range(0, _NUM_SUMS, num_lanes)
        totals = {
            (first, kind): cgutils.alloca_once(builder, lanes(single))
            for first in firsts
            for kind in (0, 1)
        }
        for total in totals.values():
            builder.store(ir.Constant(lanes(single), [0.0] * num_lanes), total)
        groups = builder.udiv(whole, number(_NUM_SUMS))
        with cgutils.for_range(builder, groups) as loop:
            group = builder.mul(loop.index, number(_NUM_SUMS))
            ahead = builder.add(following, group)
            for line in range(0, _NUM_SUMS, _LINE_BYTES // stored_bytes):
                pointer = builder.gep(flat, [builder.add(ahead, number(line))])
                _prefetch_line(builder, pointer, to_cache=2)
            for first in firsts:
                offset = builder.add(group, number(first))
                value = place(flat, builder.add(at, offset), stored_type)
                value = builder.load(value, align=stored_bytes)
                if half:
                    value = builder.fpext(value, lanes(single))
                centre, asked = (
                    builder.load(place(array, offset, single), align=4) for array in (mean, query)
                )
                difference = builder.fsub(value, centre)
                for kind, factor in enumerate((difference, asked)):
                    so_far = builder.load(totals[first, kind])
                    so_far = builder.call(multiply_add, [difference, factor, so_far])
                    builder.store(so_far, totals[first, kind])
        for (first, kind), total in totals.items():
            to = place(sums, number(kind * _NUM_SUMS + first), single)
            builder.store(builder.load(total), to, align=4)
        return context.get_dummy_value()

    arguments = (flat, types.uint64, types.uint64, mean, query, types.uint64, sums)
    return types.void(*arguments), codegen


@_compiled
def perhaps_nearest(features, query, mean, added, rows, k, first, last):
    """The squared distances of the rows of a range that may be among its `k` nearest.

    Where the range is some times larger than `k`, they are reckoned in float32 first, and to the
    last bit only for rows that may be among the nearest after all rounding.

    Args:
        features: float32, or float16 seen as uint16, `(n, dim)`.
        query: float64 `(dim,)`; its direction, where there is a mean.
        mean: float64 `(dim,)`, or of length 0: distances are of the features as they are.
        added: float64 `(p,)`, added to the squares; or of length 0.
        rows: int64 `(p,)`, ascending.
        k: int, 1 or more.
        first, last: int. The range of places in `rows`.

    Returns:
        rows int64 `(m,)`, ascending, and their squared distances float64 `(m,)`.
    """
    chosen, more = rows[first:last].copy(), np.zeros(last - first)
    if added.size != 0:
        more[:] = added[first:last]
    if chosen.size >= _ROUGH_FROM * k:
        if mean.size != 0:
            kept = _keep_perhaps_nearest_about(features, query, mean, chosen, more, k)
        else:
            kept = _keep_perhaps_nearest(features, query, chosen, more, k)
        chosen, more = chosen[:kept], more[:kept]
    squared = np.empty(chosen.size, np.float64)
    if mean.size != 0:
        _square_distances_about(features, query, mean, chosen, squared)
    else:
        _square_distances(features, query, chosen, squared)
    return chosen, squared + more


@_inlined
def _keep_perhaps_nearest(features, query, rows, more, k):
    """Move the rows that may be among the `k` nearest, by distances in float32, to the front.

    With n = dim / 64 + 6 additions one after another, each of which rounds by 2^-24 at most, a
    distance e and its rough one r differ by e * n * 2^-24 at most, plus what rounding the query
    moves it by. So a row whose r exceeds the k-th smallest by twice that is not among the
    nearest. What float32 cannot hold makes r infinite or NaN; then nothing is left out.
    """
    rough_query, rough = query.astype(np.float32), np.empty(rows.size, np.float32)
    _square_distances(features, rough_query, rows, rough)
    for at in range(rows.size):
        rough[at] += more[at]
    moved = 0.0
    for lane in range(query.size):
        moved += (query[lane] - np.float64(rough_query[lane])) ** 2
    kth = np.sqrt(np.float64(np.partition(rough, k - 1)[k - 1]))
    share = (query.size / _NUM_SUMS + 16) * 2.0**-23
    lost = np.sqrt(query.size) * _LEAST_ROOT
    limit = (kth * (1 + share) + 2 * np.sqrt(moved) + lost) ** 2
    if not limit < _LARGEST_SQUARE:
        return rows.size
    return _keep_below(rough, limit, rows, more)


@_inlined
def _keep_below(rough, limit, rows, more):
    kept = 0
    for at in range(rows.size):
        if not rough[at] > limit:
            rows[kept], more[kept] = rows[at], more[at]
            kept += 1
    return kept


@_inlined
def _keep_perhaps_nearest_about(features, query, mean, rows, more, k):
    """As `_keep_perhaps_nearest`, by the directions of features from a mean.

    Two of length 1 with the cosine c lie apart by 2 - 2c squared. With e = 2^-24: a difference
    from the mean is off by e times the mean's length and its own, so its direction by e * (2 +
    m), m the mean's length in its own; n additions add n * e; and the root, the quotient and the
    sum a few more. A row that lies so close to the mean that m exceeds 32 says too little; then
    nothing is left out.
    """
    length = 0.0
    for lane in range(mean.size):
        length += mean[lane] * mean[lane]
    whole = _U(mean.size - mean.size % _NUM_SUMS)
    rough_mean, rough_query = mean.astype(np.float32), query.astype(np.float32)
    flat, sums = features.reshape(-1), np.empty(2 * _NUM_SUMS, np.float32)
    rough = np.empty(rows.size, np.float64)
    worst, most = 0.0, 0.0
    for at in range(rows.size):
        row = _U(rows[at]) * _U(mean.size)
        following = _U(rows[min(at + 1, rows.size - 1)]) * _U(mean.size)
        _centre_whole_groups(flat, row, following, rough_mean, rough_query, whole, sums)
        squares, products = np.float64(0), np.float64(0)
        for lane in range(_NUM_SUMS):
            squares += sums[lane]
            products += sums[_NUM_SUMS + lane]
        for lane in range(whole, mean.size):
            difference = _value(flat[row + lane]) - rough_mean[lane]
            squares += difference * difference
            products += difference * rough_query[lane]
        if not (length < squares * 1024 and _LEAST_ROOT < squares < _LARGEST_SQUARE):
            return rows.size
        worst, most = max(worst, length / squares), max(most, more[at])
        rough[at] = 2 - 2 * products / np.sqrt(squares) + more[at]
    margin = (mean.size / _NUM_SUMS + 16 + 4 * np.sqrt(worst) + most) * 2.0**-20
    return _keep_below(rough, np.partition(rough, k - 1)[k - 1] + margin, rows, more)


@_inlined
def _square_distances_about(features, query, mean, rows, squared):
    """Fill `squared` with the squared distances of directions, as `search.fine` says."""
    dim = mean.size
    _square_distances(features, mean, rows, squared)
    flat = features.reshape(-1)
    sums = np.empty(_NUM_SUMS, np.float64)
    for at in range(rows.size):
        row = rows[at] * dim
        inverse = 1.0 / np.sqrt(squared[at]) if squared[at] > 0 else 0.0
        sums[:] = 0
        for start in range(0, dim, _NUM_SUMS):
            for lane in range(min(_NUM_SUMS, dim - start)):
                place = start + lane
                difference = (_value(flat[row + place]) - mean[place]) * inverse - query[place]
                sums[lane] += difference * difference
        half = _NUM_SUMS // 2
        while half > 0:
            for lane in range(half):
                sums[lane] += sums[lane + half]
            half //= 2
        squared[at] = sums[0]


@_inlined
def _square_distances(features, query, rows, squared):
    """Fill `squared` with each row's squared distance from the query, in the query's type.

    Square i goes to running sum i mod 64, as hashnet.retrieval.search.fine says.
    """
    dim = _U(query.size)
    whole = dim - dim % _U(_NUM_SUMS)
    flat = features.reshape(-1)
    sums = np.empty(_NUM_SUMS, query.dtype)
    for at in range(rows.size):
        row = _U(rows[at]) * dim
        following = _U(rows[min(at + 1, rows.size - 1)]) * dim
        _square_whole_groups(flat, row, following, query, whole, sums)
        for lane in range(dim - whole):
            difference = _value(flat[row + whole + lane]) - query[whole + lane]
            sums[lane] += difference * difference
        half = _U(_NUM_SUMS // 2)
        while half > 0:
            for lane in range(half):
                sums[lane] += sums[lane + half]
            half //= _U(2)
        squared[at] = sums[0]


@_compiled
def number_codes(words, num_words, live, most):
    """Number the distinct codes of the live rows in the order of their first rows.

    Open addressing in a table at most half full; given up once there are more than `most`.

    Args:
        words: uint64 `(n * num_words,)`.
        num_words: int.
        live: bool `(n,)`, or of length 0.
        most: int. How many distinct codes are wanted at most.

    Returns:
        first_rows int64, one a distinct code, and numbers uint32 `(n,)`, each row's code (of
        rows that are not live, undefined); or two empty arrays where there are more than `most`.
    """
    num_rows = words.size // num_words
    size_bits = 10
    while 1 << size_bits < 2 * most:
        size_bits += 1
    slots = np.full(1 << size_bits, _NO_CODE, np.uint32)
    mask = _U((1 << size_bits) - 1)
    first_rows, numbers = np.empty(most, np.int64), np.empty(num_rows, np.uint32)
    count = 0
    for row in range(num_rows):
        if live.size != 0 and not live[row]:
            continue
        at = row * num_words
        slot = _U(0)
        for word in range(num_words):
            slot = (slot ^ words[at + word]) * _U(0x9E3779B97F4A7C15)
            slot ^= slot >> _U(32)
        slot >>= _U(64 - size_bits)
        while slots[slot] != _NO_CODE:
            other = first_rows[slots[slot]] * num_words
            same = True
            for word in range(num_words):
                same &= words[at + word] == words[other + word]
            if same:
                break
            slot = (slot + _U(1)) & mask
        if slots[slot] == _NO_CODE:
            if count == most:
                return first_rows[:0], numbers[:0]
            slots[slot] = count
            first_rows[count] = row
            count += 1
        numbers[row] = slots[slot]
    return first_rows[:count], numbers


@_compiled
def post_rows(numbers, live, num_codes):
    """List the rows of each code.

    Args:
        numbers: uint32 `(n,)`, from `number_codes`.
        live: bool `(n,)`, or of length 0.
        num_codes: int, distinct codes.

    Returns:
        borders: int64 `(num_codes + 1,)`, where each code's rows lie in `rows`.
        rows: uint32 `(live rows,)`, ascending within a code.
    """
    borders = np.zeros(num_codes + 1, np.int64)
    for row in range(numbers.size):
        if live.size == 0 or live[row]:
            borders[numbers[row] + 1] += 1
    borders = np.cumsum(borders)
    filled = borders[:-1].copy()
    rows = np.empty(borders[-1], np.uint32)
    for row in range(numbers.size):
        if live.size == 0 or live[row]:
            number = numbers[row]
            rows[filled[number]] = row
            filled[number] += 1
    return borders, rows


@_compiled
def nearest_codes(words, queries, like, k, borders, first, last):
    """Find the codes that hold each query's `k` nearest rows and all that tie with the last.

    Args:
        words: uint64 `(num_codes * num_words,)`, of the distinct codes.
        queries, like: see `within`.
        k: int, 1 or more.
        borders: int64 `(num_codes + 1,)`. Code c has `borders[c + 1] - borders[c]` rows.
        first, last: int. The range of queries.

    Returns:
        codes int64, bits int32, and int64 `(last - first + 1,)` borders by query in them.
    """
    num_codes, max_bits = borders.size - 1, queries.shape[1] * 64
    apart = np.empty(num_codes, np.uint32)
    counts = np.empty(max_bits + 1, np.int64)
    codes, bits = np.empty(256, np.int64), np.empty(256, np.int32)
    ends = np.zeros(last - first + 1, np.int64)
    used = _U(0)
    for number in range(first, last):
        query = _query_at(queries, number, like)
        for code in range(_U(num_codes)):
            apart[code] = _bits_apart(words, code, query)
        counts[:] = 0
        for code in range(_U(num_codes)):
            counts[apart[code]] += borders[code + _U(1)] - borders[code]
        limit = _limit_holding(counts, k)
        count = _U(0)
        for code in range(_U(num_codes)):
            count += _U(apart[code] <= _U(limit))
        codes, bits = _room(codes, used, count), _room(bits, used, count)
        for code in range(_U(num_codes)):
            if apart[code] <= _U(limit):
                codes[used], bits[used] = code, apart[code]
                used += _U(1)
        ends[number - first + 1] = used
    return codes[:used], bits[:used], ends


@_compiled
def rows_of_codes(codes, bits, ends, borders, rows, num_rows, allowed):
    """Return all rows of each query's codes, ascending, and their bits.

    Args:
        num_rows: int, n.
        allowed: bool `(n,)`, or of length 0.
        codes, bits, ends: as `nearest_codes` returns them.
        borders, rows: as `post_rows` returns them.

    Returns:
        rows int64, bits int32, and int64 borders by query.
    """
    total, most = 0, 0
    for number in range(ends.size - 1):
        size = 0
        for at in range(ends[number], ends[number + 1]):
            size += borders[codes[at] + 1] - borders[codes[at]]
        total += size
        most = max(most, size)
    found_rows, found_bits = np.empty(total, np.int64), np.empty(total, np.int32)
    found_ends = np.zeros(ends.size, np.int64)
    keys, spare = np.empty(most, np.uint64), np.empty(most, np.uint64)
    used = _U(0)
    for number in range(ends.size - 1):
        size = _U(0)
        for at in range(ends[number], ends[number + 1]):
            apart = _U(bits[at])
            for place in range(_U(borders[codes[at]]), _U(borders[codes[at] + 1])):
                row = _U(rows[place])
                keys[size] = row << _U(11) | apart
                size += _U(_passes(allowed, allowed, row))
        if ends[number + 1] - ends[number] > 1:
            keys, spare = _sorted_by_row(keys, spare, size, num_rows)
        for at in range(size):
            found_rows[used + at] = keys[at] >> _U(11)
            found_bits[used + at] = keys[at] & _U(2047)
        used += size
        found_ends[number + 1] = used
    return found_rows[:used], found_bits[:used], found_ends


@_inlined
def _sorted_by_row(keys, spare, size, num_rows):
    """Sort the first `size` keys row * 2048 + bits; return the sorted array and the other."""
    if size < 256:
        keys[:size].sort()
        return keys, spare
    row_bits = _U(1)
    while num_rows >> row_bits:
        row_bits += _U(1)
    # As few passes as have counters that stay in the nearest cache.
    passes = (row_bits + _U(10)) // _U(11)
    digit_bits = (row_bits + passes - _U(1)) // passes
    digits = _U(1) << digit_bits
    starts = np.empty(digits, np.uint64)
    for number in range(passes):
        shift = _U(11) + number * digit_bits
        starts[:] = 0
        for at in range(size):
            starts[(keys[at] >> shift) & (digits - _U(1))] += _U(1)
        total = _U(0)
        for digit in range(digits):
            count = starts[digit]
            starts[digit] = total
            total += count
        for at in range(size):
            digit = (keys[at] >> shift) & (digits - _U(1))
            spare[starts[digit]] = keys[at]
            starts[digit] += _U(1)
        keys, spare = spare, keys
    return keys, spare


@_compiled
def first_rows_of_codes(codes, bits, ends, k, borders, rows):
    """Return each query's first `k` rows by bits and then by row.

    Args:
        k: int, 1 or more.
        codes, bits, ends: as `nearest_codes` returns them for this `k`, which is at most the
            number of all rows.
        borders, rows: as `post_rows` returns them.

    Returns:
        rows int64 and bits int32, each `(num_queries, k)`.
    """
    num_queries = ends.size - 1
    found_rows = np.empty((num_queries, k), np.int64)
    found_bits = np.empty((num_queries, k), np.int32)
    keys, ties = np.empty(k, np.int64), np.empty(0, np.int64)
    for number in range(num_queries):
        limit, tied = 0, 0
        for at in range(ends[number], ends[number + 1]):
            if bits[at] > limit:
                limit, tied = bits[at], 0
            if bits[at] == limit:
                tied += borders[codes[at] + 1] - borders[codes[at]]
        used = 0
        for at in range(ends[number], ends[number + 1]):
            if bits[at] < limit:
                for place in range(borders[codes[at]], borders[codes[at] + 1]):
                    keys[used] = np.int64(bits[at]) << 48 | np.int64(rows[place])
                    used += 1
        # Of the codes at the limit, whose rows ascend, no more than the first few are wanted.
        wanted = k - used
        if ties.size < min(2 * wanted, tied):
            ties = np.empty(min(2 * wanted, tied), np.int64)
        held, last = 0, np.int64(1) << 48
        for at in range(ends[number], ends[number + 1]):
            if bits[at] < limit:
                continue
            for place in range(borders[codes[at]], borders[codes[at] + 1]):
                if rows[place] > last:
                    break
                if held == ties.size:
                    ties.sort()
                    held, last = wanted, ties[wanted - 1]
                    if rows[place] > last:
                        break
                ties[held] = rows[place]
                held += 1
        keys[:used].sort()
        ties[:held].sort()
        for at in range(used):
            found_rows[number, at] = keys[at] & ((np.int64(1) << 48) - 1)
            found_bits[number, at] = keys[at] >> 48
        for at in range(wanted):
            found_rows[number, used + at], found_bits[number, used + at] = ties[at], limit
    return found_rows, found_bits


@_inlined
def _substring(words, at, start, width):
    """Return `width` bits of the code whose words begin at `at`, from bit `start` of them on."""
    word, shift = at + (start >> _U(6)), start & _U(63)
    value = words[word] >> shift
    if shift + width > _U(64):
        value |= words[word + _U(1)] << (_U(64) - shift)
    return value & ((_U(1) << width) - _U(1))


@_compiled
def fill_table(words, num_words, live, start, width):
    """Sort the live rows by one substring of their codes.

    Args:
        words: uint64 `(n * num_words,)`.
        num_words: int.
        live: bool `(n,)`, or of length 0.
        start, width: int. The substring's first bit, and its length in bits.

    Returns:
        borders uint32 `(2 ** width + 1,)` and rows uint32, ascending within a bucket.
    """
    num_rows = words.size // num_words
    borders = np.zeros((1 << width) + 1, np.uint32)
    start, width = _U(start), _U(width)
    for row in range(num_rows):
        if live.size == 0 or live[row]:
            borders[_substring(words, _U(row * num_words), start, width) + _U(1)] += np.uint32(1)
    for bucket in range(1, borders.size):
        borders[bucket] += borders[bucket - 1]
    rows = np.empty(borders[-1], np.uint32)
    filled = borders[:-1].copy()
    for row in range(num_rows):
        if live.size == 0 or live[row]:
            bucket = _substring(words, _U(row * num_words), start, width)
            rows[filled[bucket]] = row
            filled[bucket] += np.uint32(1)
    return borders, rows


@_compiled
def look_up(
    words, queries, like, threshold, starts, widths, borders, rows, border_at, row_at, most
):
    """Find the rows fewer than `threshold` bits from each query by way of the tables.

    General pigeonhole: let radius = threshold - 1 = a * m + b over m substrings. A code within
    the radius differs by at most a in one of the first b + 1 substrings, or by at most a - 1 in
    one of the others. It is reported by the first substring that shows it, so only once.

    Args:
        words, queries, like, threshold: see `within`.
        starts, widths: uint64 `(m,)`. The substrings' first bits and lengths.
        borders, rows: uint32. The tables of `fill_table`, one after another.
        border_at, row_at: uint64 and int64 `(m,)`. Where each table's part begins in them.
        most: int. How many candidates a query may have before the tables are given up.

    Returns:
        keys int64, row * 2048 + bits, query after query, each query's ascending; borders int64
        `(num_queries + 1,)` of the queries in them; crowded bool `(num_queries,)`, the queries
        with too many candidates, which have no keys.
    """
    num_tables = starts.size
    deepest, extra = (threshold - 1) // num_tables, (threshold - 1) % num_tables
    keys, used = np.empty(256, np.int64), 0
    borders_by_query = np.zeros(len(queries) + 1, np.int64)
    crowded = np.zeros(len(queries), np.bool_)
    parts = np.empty(num_tables, np.uint64)
    num_words, limit = _U(queries.shape[1]), _U(threshold)
    for number in range(len(queries)):
        query = _query_at(queries, number, like)
        candidates = np.int64(0)
        for table in range(num_tables):
            parts[table] = _substring(queries[number], _U(0), starts[table], widths[table])
        for table in range(num_tables):
            radius = deepest if table <= extra else deepest - 1
            for weight in range(radius + 1):
                flips = (_U(1) << _U(weight)) - _U(1)
                while flips >> widths[table] == 0 and candidates <= most:
                    bucket = border_at[table] + (parts[table] ^ flips)
                    first = np.int64(borders[bucket])
                    last = np.int64(borders[bucket + _U(1)])
                    candidates += last - first
                    if candidates > most:
                        break
                    if used + last - first > keys.size:
                        keys = _room(keys, used, last - first)
                    for place in range(row_at[table] + first, row_at[table] + last):
                        row = _U(rows[place])
                        apart = _bits_apart(words, row, query)
                        if apart >= limit:
                            continue
                        shown = False
                        for earlier in range(table):
                            part = _substring(
                                words, row * num_words, starts[earlier], widths[earlier]
                            )
                            reach = deepest if earlier <= extra else deepest - 1
                            shown |= np.int64(_popcount(part ^ parts[earlier])) <= reach
                        if not shown:
                            keys[used] = (np.int64(row) << 11) | np.int64(apart)
                            used += 1
                    if weight == 0:
                        break
                    lowest = flips & (~flips + _U(1))
                    carried = flips + lowest
                    flips = carried | (((flips ^ carried) >> _U(2)) // lowest)
        crowded[number] = candidates > most
        if crowded[number]:
            used = borders_by_query[number]
        elif used - borders_by_query[number] > 1:
            keys[borders_by_query[number] : used] = np.sort(keys[borders_by_query[number] : used])
        borders_by_query[number + 1] = used
    return keys[:used], borders_by_query, crowded


# --- Local features ---------------------------------------------------------------------------
# Descriptors are int16, two to a word, since processors multiply and add those in pairs (pmaddwd).
# Per row, and per panel of columns, the best so far is kept lane by lane.

_LANES = 8
_TILE_ROWS = 4
_PANEL = 2 * _LANES
_PANELS_AT_ONCE = 4  # which fit the nearest cache
_LEAST = -(2**31)


@intrinsic
def _compare_tile(_context, query, words, num_words, columns, row_state, column_state, row, panel):
    """Compare `_TILE_ROWS` rows of the query from `row` on with the columns of a panel.

    All arrays are flat and int32, all numbers intp. A row's state is (best, second, column), each
    of `_LANES`; a panel's is (best, row), each of `_PANEL`. Of equals the first stays.
    """
    word, number = ir.IntType(32), ir.IntType(64)
    lanes, pairs = ir.VectorType(word, _LANES), ir.VectorType(ir.IntType(16), 2 * _LANES)
    products = ir.VectorType(word, 2 * _LANES)

    def codegen(context, builder, signature, arguments):
        query, words, num_words, columns, row_state, column_state, row, panel = arguments

        def start(place, offset):
            first = _start(context, builder, signature, arguments, place)
            return builder.gep(first, [offset])

        def load(pointer, offset):
            pointer = builder.gep(pointer, [offset])
            vector = builder.load(builder.bitcast(pointer, lanes.as_pointer()))
            vector.align = 4
            return vector

        def store(vector, pointer, offset):
            pointer = builder.gep(pointer, [offset])
            builder.store(vector, builder.bitcast(pointer, lanes.as_pointer())).align = 4

        def of(values):
            return ir.Constant(lanes, list(values))

        def everywhere(value):
            one = builder.insert_element(ir.Constant(lanes, ir.Undefined), value, word(0))
            return builder.shuffle_vector(one, one, of([0] * _LANES))

        def sums_of_pairs(left, right):  # LLVM knows this as one instruction
            left, right = (
                builder.sext(builder.bitcast(one, pairs), products) for one in (left, right)
            )
            both = builder.mul(left, right, flags=["nsw"])
            even, odd = (
                builder.shuffle_vector(both, both, of(range(first, 2 * _LANES, 2)))
                for first in (0, 1)
            )
            return builder.add(even, odd)

        def larger(left, right):
            return builder.icmp_signed(">", left, right)

        rows, halves = range(_TILE_ROWS), (0, _LANES)
        query_at = start(0, builder.mul(row, num_words))
        panel_at = start(1, builder.mul(panel, builder.mul(num_words, number(_PANEL))))
        sums = {(r, half): cgutils.alloca_once(builder, lanes) for r in rows for half in halves}
        for total in sums.values():
            builder.store(of([0] * _LANES), total)
        with cgutils.for_range(builder, num_words) as loop:
            at = builder.mul(loop.index, number(_PANEL))
            right = {half: load(panel_at, builder.add(at, number(half))) for half in halves}
            for r in rows:
                at = builder.add(builder.mul(num_words, number(r)), loop.index)
                left = everywhere(builder.load(builder.gep(query_at, [at])))
                for half in halves:
                    total = builder.load(sums[r, half])
                    total = builder.add(total, sums_of_pairs(left, right[half]))
                    builder.store(total, sums[r, half])
        first_column = builder.mul(panel, number(_PANEL))
        panel_state = start(5, builder.mul(panel, number(2 * _PANEL)))
        for half in halves:
            first = builder.trunc(builder.add(first_column, number(half)), word)
            column = builder.add(everywhere(first), of(range(_LANES)))
            exists = larger(everywhere(builder.trunc(columns, word)), column)
            top = load(panel_state, number(half))
            top_row = load(panel_state, number(_PANEL + half))
            for r in rows:
                this = builder.add(row, number(r))
                value = builder.select(exists, builder.load(sums[r, half]), of([_LEAST] * _LANES))
                more = larger(value, top)
                top = builder.select(more, value, top)
                top_row = builder.select(more, everywhere(builder.trunc(this, word)), top_row)
                state = start(4, builder.mul(this, number(3 * _LANES)))
                best, second, nearest = (load(state, number(i * _LANES)) for i in range(3))
                more = larger(value, best)
                lower = builder.select(more, best, value)
                second = builder.select(larger(lower, second), lower, second)
                for i, (old, new) in enumerate(
                    ((best, value), (second, second), (nearest, column))
                ):
                    store(builder.select(more, new, old), state, number(i * _LANES))
            store(top, panel_state, number(half))
            store(top_row, panel_state, number(_PANEL + half))
        return context.get_dummy_value()

    arguments = (query, words, num_words, columns, row_state, column_state, row, panel)
    return types.void(*arguments), codegen


@_compiled
def nearest_two(query, others):
    """Compare all rows of two sets of descriptors, whose products are exact.

    Args:
        query: int32 `(m, num_words)`, m > 0: int16 numbers, two to a word.
        others: int32 `(n, num_words)`, n > 0, likewise.

    Returns:
        nearest: int64 `(m,)`. The row of `others` of the largest product, the first of equals.
        best: int32 `(m,)`. That product.
        second: int32 `(m,)`. The largest product with another row; least where there is none.
        back: int64 `(n,)`. The row of `query` of the largest product with each of `others`, the
            first of equals.
    """
    m, num_words = query.shape
    n = len(others)
    tiles, panels = -(-m // _TILE_ROWS), -(-n // _PANEL)
    rows = np.empty((tiles * _TILE_ROWS, num_words), np.int32)
    rows[:m] = query
    rows[m:] = query[m - 1]  # a row again is never the first of equals
    words = np.zeros((panels, num_words, _PANEL), np.int32)
    for column in range(n):
        for word in range(num_words):
            words[column // _PANEL, word, column % _PANEL] = others[column, word]
    flat_rows, flat_words = rows.reshape(-1), words.reshape(-1)
    row_state = np.full(tiles * _TILE_ROWS * 3 * _LANES, np.int32(_LEAST))
    column_state = np.full(panels * 2 * _PANEL, np.int32(_LEAST))
    for first in range(0, panels, _PANELS_AT_ONCE):
        for row in range(0, len(rows), _TILE_ROWS):
            for panel in range(first, min(first + _PANELS_AT_ONCE, panels)):
                _compare_tile(
                    flat_rows, flat_words, num_words, n, row_state, column_state, row, panel
                )
    nearest, best, second = np.empty(m, np.int64), np.empty(m, np.int32), np.empty(m, np.int32)
    lanes = row_state.reshape(-1, 3, _LANES)
    for row in range(m):
        top, runner_up, column = lanes[row, 0, 0], lanes[row, 1, 0], lanes[row, 2, 0]
        for lane in range(1, _LANES):
            value, number = lanes[row, 0, lane], lanes[row, 2, lane]
            runner_up = max(runner_up, lanes[row, 1, lane], min(top, value))
            if value > top or (value == top and number < column):
                top, column = value, number
        nearest[row], best[row], second[row] = column, top, runner_up
    back = np.empty(n, np.int64)
    tops = column_state.reshape(-1, 2, _PANEL)
    for column in range(n):
        back[column] = tops[column // _PANEL, 1, column % _PANEL]
    return nearest, best, second, back


@_compiled
def fixed_point(descriptors, scale, most):
    """Round descriptors to whole numbers; see `hashnet.retrieval.search.verify`.

    Args:
        descriptors: float32, or float16 seen as uint16, `(n, d)`.
        scale: float32. What they are multiplied by.
        most: int, up to 2 ** 29. Rows of a larger sum of squares, or not finite, are left out.

    Returns:
        numbers: int16 `(kept, d)`, or one column of zeros more where d is odd.
        rows: int64 `(kept,)`. Which rows those are.
    """
    n, d = descriptors.shape
    numbers = np.zeros((n, d + d % 2), np.int16)
    rows = np.empty(n, np.int64)
    beyond = np.float32(np.sqrt(most) + 1)
    kept = 0
    for row in range(n):
        total = np.int64(0)
        for i in range(d):
            value = np.rint(np.float32(_value(descriptors[row, i])) * scale)
            # What is no number is not between, and counts as too large.
            number = np.int64(value if -beyond < value < beyond else beyond)
            total += number * number
            numbers[kept, i] = number
        if total <= most:
            rows[kept] = row
            kept += 1
    return numbers[:kept], rows[:kept]


@_compiled
def add_shared(
    signatures, rows, first_places, last_places, queries, selectivity, scores, first, last
):
    """Add to the scores of a range of rows what the words they share with a query say.

    Args:
        signatures: uint32 or uint64 `(n,)`, one list for each word after another.
        rows: uint32 `(n,)`. The row of each signature, ascending within a list.
        first_places, last_places: int64 `(num_words,)`. Where the lists of the query's words lie.
        queries: `(num_words,)`, as `signatures`. The query's signatures of them.
        selectivity: float32. What an agreement counts, by the Hamming distance.
        scores: float32 `(num_rows,)`, added to; in the order of the query's words, however the
            rows are shared out.
        first, last: int. The range of rows.
    """
    for number in range(len(first_places)):
        query = _U(queries[number])
        start, end = first_places[number], last_places[number]
        begin = start + np.searchsorted(rows[start:end], first)
        for place in range(_U(begin), _U(end)):
            row = rows[place]
            if row >= last:
                break
            scores[row] += selectivity[_popcount(_U(signatures[place]) ^ query)]
