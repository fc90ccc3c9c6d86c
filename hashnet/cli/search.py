"""hashnet search: find the images most like one."""

import argparse
import collections
import dataclasses
import json
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from hashnet import files
from hashnet.cli.indexes import engine_of, hint_at_numba
from hashnet.cli.options import (
    add_index,
    add_json,
    add_matcher,
    add_max_pixels,
    add_pool,
    add_rank_by,
    add_rerank,
    positive_number,
    region,
)
from hashnet.cli.output import DONE, FAILED, SKIPPED_SOME, complain, count, name_problems, note
from hashnet.errors import ArgumentError
from hashnet.escapes import printable

if TYPE_CHECKING:
    import numpy as np

    from hashnet.images import Problem
    from hashnet.retrieval.search.engine import Engine
    from hashnet.retrieval.search.hits import Hit, SearchResult
    from hashnet.retrieval.search.query import Query
    from hashnet.retrieval.words.results import TextHit, TextResult

    Source = str | bytes | np.ndarray
    # What was asked, as it can be drawn, and what was found.
    Answer = tuple[Any, SearchResult]
    Match = tuple[Any, Hit, np.ndarray, np.ndarray]

EXAMPLE = "photos.index cat.jpg -k 5"
STDIN = "-"
MOST_ID_BYTES = 1 << 28  # of a list of ids
PICTURED_MATCHES = 5  # hits of a query whose matches are drawn


class _Help(argparse.HelpFormatter):
    """Shows that no QUERY is needed."""

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        if action.nargs == argparse.ONE_OR_MORE and not action.required:
            return f"[{action.metavar} ...]"
        return super()._format_args(action, default_metavar)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    add_index(parser)
    parser.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="INDEX2",
        help="search this index too, as if all were one; it has the same network if it was made "
        "with index --bundle INDEX",
    )
    queries = parser.add_argument(
        "queries",
        nargs="+",
        metavar="QUERY",
        help="image files, folders of them, or - for an image from standard input; of vectors "
        ".npy and .parquet files; with --text none are needed",
    )
    # Not "*", which would take nothing where an option stands between INDEX and QUERY.
    queries.required, queries.default = False, []
    parser.formatter_class = _Help
    parser.add_argument(
        "--text",
        metavar="WORDS",
        help="instead of a QUERY, search in words: labels, names of files, captions, what was read "
        "in the pictures, what they show, and all other ways that the index has; beside a QUERY, "
        "what hits are to show besides",
    )
    parser.add_argument(
        "--text-weight",
        type=float,
        default=0.5,
        metavar="W",
        help="beside a QUERY, how far it moves towards the words: 0, not at all, to 1, where these "
        "alone count (%(default)s)",
    )
    parser.add_argument(
        "--by-id",
        action="store_true",
        help="each QUERY is the id of an image in the index; nothing is read or encoded again",
    )
    parser.add_argument(
        "-k", type=positive_number, default=10, help="hits for each query (%(default)s)"
    )
    add_pool(parser)
    add_rank_by(parser)
    add_rerank(parser)
    parser.add_argument(
        "--region",
        type=region,
        metavar="Y0,X0,Y1,X1",
        help="search by this region of the query, in pixels",
    )
    parser.add_argument(
        "--label", action="append", metavar="L", help="find only images with this label"
    )
    parser.add_argument(
        "--after",
        metavar="DATE",
        help="find only photos taken on this date or later, as 2026-05-01 or 2026 (index --exif)",
    )
    parser.add_argument("--before", metavar="DATE", help="find only photos taken before this date")
    parser.add_argument(
        "--under",
        action="append",
        metavar="FOLDER",
        help="find only images in this folder or below, by its path or as ids begin",
    )
    parser.add_argument(
        "--ids",
        metavar="F",
        help="find only images whose ids this file lists, one a line, as list prints them; - for "
        "standard input",
    )
    parser.add_argument(
        "--until-unlike",
        action="store_true",
        help="of these hits, print only those that are like the query, by their distances",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="compare local features, also of images that these find, and put the hits that match "
        "first (index --local)",
    )
    parser.add_argument(
        "--same-object",
        action="store_true",
        help="find by local features alone, whatever the rest of the photo shows (index --local)",
    )
    parser.add_argument(
        "--written",
        action="store_true",
        help="also read the text in each QUERY, and put images first in which the same was read; "
        "beside --verify or --same-object, what text and local features together tell (index "
        "--ocr)",
    )
    add_matcher(parser)
    for name, direction in (("right", "towards"), ("wrong", "away from")):
        parser.add_argument(
            f"--{name}",
            action="append",
            default=[],
            metavar="ID",
            help=f"id of an earlier hit that was {name}; the query moves {direction} it",
        )
    add_json(parser)
    parser.add_argument(
        "--picture",
        metavar="PNG",
        help="also draw queries and hits into this file, and the matches of verified ones",
    )
    add_max_pixels(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    if "numpy" not in sys.modules:
        # A search multiplies no large matrices: NumPy need not start threads for that.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from hashnet import images
    from hashnet.retrieval.search import compiled

    _check(arguments)
    query = _query(arguments)
    if not arguments.queries:
        return _run_text(arguments, query)
    engine = engine_of([arguments.index, *arguments.also])
    # What a search prints are paths, where there are such.
    query = dataclasses.replace(
        query,
        ids=_ids_known(engine, query.ids),
        right=engine.ids_of(list(query.right)),
        wrong=engine.ids_of(list(query.wrong)),
    )
    queries, problems = _queries(arguments)
    if arguments.picture:
        _refuse_to_draw_over(arguments.picture, queries)
    num_problems = len(problems)
    answers = _answers(arguments, engine, query, queries, problems)
    if arguments.picture:
        sheet = _sheet(answers, matches=arguments.verify or arguments.same_object)
    else:
        collections.deque(answers, maxlen=0)  # nothing more is made of them
    name_problems(problems)
    if compiled.is_missed() and not arguments.json:
        hint_at_numba(engine.snapshot.num_items)
    if len(problems) - num_problems == len(queries):
        return FAILED
    if arguments.picture:
        images.write(arguments.picture, sheet)
        note(f"wrote {arguments.picture}")
    return SKIPPED_SOME if problems else DONE


def _run_text(arguments: argparse.Namespace, query: "Query") -> int:
    """Search in words."""
    from hashnet import images
    from hashnet.images import sheets
    from hashnet.retrieval.words.box import WordBox

    engine = engine_of([arguments.index, *arguments.also])
    query = dataclasses.replace(query, ids=_ids_known(engine, query.ids))
    result = WordBox(engine).search(arguments.text, query)
    if arguments.json:
        print(json.dumps(result.to_dict()))
    else:
        _print_text_result(result)
    if arguments.picture:
        drawn = 255 - images.text(arguments.text)
        images.write(
            arguments.picture,
            sheets.contact_sheet([(drawn, result.hits)], first="words", told=_told_of_text),
        )
        note(f"wrote {arguments.picture}")
    return DONE


def _told_of_text(hit: "TextHit") -> str:
    return f"{hit.score:.4f}, {', '.join(hit.ways)}"


def _print_text_result(result: "TextResult") -> None:
    from hashnet.retrieval.words.results import ranked

    spent = ", ".join(f"{way} {time:.1f} ms" for way, time in result.milliseconds.items())
    print(f"{printable(result.query)}: {len(result)} of {count(result.found, 'image')} ({spent})")
    for rank, hit in enumerate(result.hits, 1):
        _print_hit(ranked(rank, hit), hit)
    if not result.hits:
        for way, why in result.missing.items():
            note(f"not searched by {way}: {why}")
        if result.suggestions:
            note(f"known, and like it: {', '.join(map(printable, result.suggestions))}")


def _print_hit(begin: str, hit: "Hit | TextHit") -> None:
    label = f"  [{printable(hit.label)}]" if hit.label is not None else ""
    region = "" if hit.region is None else f"  at {','.join(map(str, hit.region))}"
    print(f"{begin}{label}  {printable(hit.path or hit.id)}{region}")


def _answers(
    arguments: argparse.Namespace,
    engine: "Engine",
    query: "Query",
    queries: "Sequence[tuple[str, Source]]",
    problems: list["Problem"],
) -> "Iterator[Answer]":
    """Search by each query, print what is found, and yield it; what failed joins `problems`."""
    import numpy as np

    from hashnet import images
    from hashnet.errors import ImageError, UnknownIdError

    shown: str | images.Photo | None
    for name, source in queries:
        try:
            if arguments.by_id:
                [id] = engine.ids_of([name])
                result = engine.search_id(id, query)
                shown = engine.path(id) if arguments.picture else None
            elif isinstance(source, np.ndarray):
                shown, result = None, engine.search_vector(source, query)
            else:
                # What is drawn later is decoded once; without a picture nothing is kept.
                shown = images.Photo(source) if arguments.picture else None
                result = engine.search(source if shown is None else shown, query)
        except (ImageError, UnknownIdError) as error:
            if len(queries) == 1:
                raise
            problems.append(images.Problem(name, str(error)))
            continue
        result = dataclasses.replace(result, query=name)
        if arguments.json:
            print(json.dumps(result.to_dict()))
        else:
            _print_result(result)
            if query.until_unlike and result.pool and not result.hits:
                note(f"{printable(name)}: nothing that was searched is like it")
        yield shown, result


def _check(arguments: argparse.Namespace) -> None:
    """Refuse before the search what would fail after it."""
    from hashnet import images

    if not arguments.queries and arguments.text is None:
        raise ArgumentError("A search is by a picture or by words.", "neither QUERY nor --text")
    if arguments.by_id and not arguments.queries:
        raise ArgumentError("A search by id names images of the index.", "--by-id and no QUERY")
    is_beside = arguments.queries and arguments.text is not None
    if arguments.text_weight != 0.5 and not is_beside:
        raise ArgumentError(
            "Words have a weight beside a picture.", "--text-weight without QUERY and --text"
        )
    if arguments.by_id and arguments.region:
        raise ArgumentError("A region is cut out of a file.", "--by-id and --region")
    inputs = [*([] if arguments.by_id else arguments.queries), arguments.ids]
    if inputs.count(STDIN) > 1:
        raise ArgumentError(
            "Standard input is read once.", f"{STDIN} given {inputs.count(STDIN)} times"
        )
    if arguments.picture:
        images.check_target(arguments.picture)


def _query(arguments: argparse.Namespace) -> "Query":
    from hashnet.retrieval.search.query import Query

    return Query(
        k=arguments.k,
        threshold=arguments.threshold,
        pool=arguments.pool,
        labels=arguments.label,
        ids=_listed_ids(arguments.ids),
        after=arguments.after,
        before=arguments.before,
        under=arguments.under,
        region=arguments.region,
        right=arguments.right,
        wrong=arguments.wrong,
        text=arguments.text if arguments.queries else None,
        text_weight=arguments.text_weight,
        rank_by=arguments.rank_by,
        rerank=arguments.rerank,
        rerank_top=arguments.rerank_top,
        rerank_neighbours=arguments.rerank_neighbours,
        until_unlike=arguments.until_unlike,
        verify=arguments.verify,
        matcher=arguments.matcher,
        matcher_top=arguments.matcher_top,
        same_object=arguments.same_object,
        written=arguments.written,
    )


def _queries(
    arguments: argparse.Namespace,
) -> "tuple[list[tuple[str, Source]], list[Problem]]":
    """(what it is called, what is read) of each query, and what is no query."""
    from hashnet import images
    from hashnet.retrieval import vectors

    if arguments.by_id:
        return [(id, id) for id in arguments.queries], []
    queries: list[tuple[str, Source]] = []
    problems: list[Problem] = []
    for given in arguments.queries:
        if given == STDIN:
            queries.append((STDIN, sys.stdin.buffer.read(images.MAX_BYTES + 1)))
        elif os.path.isdir(given):
            found, unreadable, passed_over = images.find([given])
            queries += [(file.path, file.path) for file in found]
            problems += unreadable
            if not found and not unreadable:
                over = images.passed_over_in_words(passed_over)
                reason = f"no image lies in this folder{f'; {over}' if over else ''}"
                problems.append(images.Problem(given, reason))
        elif vectors.is_file(given):
            found_vectors = vectors.Vectors.of(given)
            rows = (row for _, block in found_vectors.blocks() for row in block)
            names = (f"{given}: {item.id}" for item in found_vectors.items)
            queries += zip(names, rows, strict=True)
        else:
            queries.append((given, given))
    return queries, problems


def _refuse_to_draw_over(picture: str, queries: "Sequence[tuple[str, Source]]") -> None:
    """Refuse a picture that would take the place of a query's own file."""
    if not os.path.exists(picture):
        return
    for name, source in queries:
        if isinstance(source, str) and os.path.exists(source) and os.path.samefile(picture, source):
            raise ArgumentError(
                "The picture of a search is not drawn over a query.",
                f"--picture {picture!r}, which is {name!r}",
                "Give the picture another name.",
            )


def _sheet(answers: "Iterator[Answer]", matches: bool) -> "np.ndarray":
    """Draw the answers as they come, so that no more than one query is in memory."""
    from hashnet.images import sheets

    if matches:
        return sheets.match_sheet(_matched(answers))
    return sheets.contact_sheet((query, result.hits) for query, result in answers)


def _matched(answers: "Iterable[Answer]") -> "Iterator[Match]":
    """(query, hit, query_yx, yx) of the hits of each query that were verified."""
    for query, result in answers:
        found = list(zip(result.hits, result.verifications or (), strict=True))
        for hit, verification in found[:PICTURED_MATCHES]:
            if verification is not None and verification.inliers:
                yield query, hit, verification.query_yx, verification.yx


def _listed_ids(path: str | None) -> list[str] | None:
    """The ids that a file lists, or None without a file."""
    if path is None:
        return None
    try:
        if path == STDIN:
            content = files.read_stream(sys.stdin.buffer, MOST_ID_BYTES, path)
        else:
            content = files.read_at_most(path, MOST_ID_BYTES)
    except OSError as error:
        raise ArgumentError(
            "Ids come from a file, one a line.", f"{path}: {error.strerror}"
        ) from error
    lines = (line.removesuffix(b"\r") for line in content.split(b"\n"))
    return [os.fsdecode(line) for line in lines if line]


def _ids_known(engine: "Engine", listed: "Collection[str] | None") -> list[str] | None:
    """Ids of what a file lists; says on stderr what the index has not, if it has others."""
    if listed is None:
        return None
    ids = engine.ids_of(list(listed))
    unknown = [id for id, row in zip(ids, engine.snapshot.rows(ids), strict=True) if row < 0]
    if 0 < len(unknown) < len(ids):  # where none is known, the search says so
        complain(
            f"of {count(len(ids), 'id')} of --ids the index lacks {len(unknown):,}, the first: "
            f"{printable(unknown[0])}"
        )
    return ids


def _print_result(result: "SearchResult") -> None:
    from hashnet.retrieval.search.hits import ranked_scores

    stages = ", ".join(
        f"{stage} {time_taken:.1f} ms"
        for stage, time_taken in result.milliseconds.items()
        if time_taken is not None
    )
    print(f"{printable(result.query)}: {result.pool_in_words} ({stages})")
    for rank, hit in enumerate(result.hits, 1):
        _print_hit(ranked_scores(rank, hit), hit)
