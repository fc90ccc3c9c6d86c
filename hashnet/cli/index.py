"""hashnet index: create or update an index."""

import argparse
import signal
import time
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

from hashnet.cli.choices import BACKBONES, EXTRACTORS, PRECISIONS
from hashnet.cli.indexes import opened, say_which
from hashnet.cli.options import (
    Shown,
    add_exclude,
    add_index,
    add_label_from,
    add_max_pixels,
    backbone,
    extractors,
    positive_number,
)
from hashnet.cli.output import (
    DONE,
    MOST_NAMED,
    SKIPPED_SOME,
    Progress,
    complain,
    count,
    name_left_out,
    name_problems,
    note,
    say_passed_over,
)
from hashnet.errors import ArgumentError, SkippedWarning
from hashnet.escapes import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hashnet.api import Index
    from hashnet.retrieval import index as indexes
    from hashnet.retrieval.ingest import UpdateReport

EXAMPLE = "photos.index ~/Pictures"

# What an index of vectors takes from a file, or cannot have.
_NOT_OF_VECTORS = (
    "images",
    "from_parquet",
    "weights",
    "precision",
    "label_from",
    "relabel",
    "prune",
    "watch",
    "rehash",
    "exclude",
    "no_default_excludes",
    "workers",
    "local",
    "regions",
    "exif",
    "ocr",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    add_index(parser)
    sources = parser.add_argument(
        "images", nargs="+", metavar="IMAGES", help="image files and folders of them"
    )
    # Not "*", which would take nothing where an option stands between INDEX and IMAGES.
    sources.required = False
    parser.add_argument(
        "--from-parquet",
        metavar="OUT",
        help="add what hashnet extract has written to OUT, instead of IMAGES",
    )
    parser.add_argument(
        "--from-vectors",
        metavar="FILE",
        help="add the vectors of a .npy or .parquet file, instead of IMAGES; --backbone or "
        "--bundle names the network that made them, if pictures are to be queries",
    )
    parser.add_argument(
        "--bundle",
        metavar="B",
        help="network of a new index: a bundle, or another index, with which search --also then "
        "goes; without it, one is fitted to the images, without labels",
    )
    parser.add_argument(
        "--bits", type=int, metavar="N", help="code length where no bundle is given"
    )
    parser.add_argument(
        "--backbone",
        type=backbone,
        metavar="NAME",
        help=f"pretrained network where no bundle is given: {', '.join(BACKBONES)}, or one of "
        "yours; with a pooling of its maps behind it if wanted, as in efficientnet_lite0:gem "
        "(efficientnet_lite0)",
    )
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="weights for this network, as keras.applications or torchvision give them, in place "
        "of its own",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="in which a new index encodes images and queries; any but float32 flips some "
        "bits, and info says how many (as the bundle says, or float32)",
    )
    add_label_from(parser)
    parser.add_argument(
        "--relabel",
        action="store_true",
        help="with --label-from, also where an image has the label of a folder further up",
    )
    parser.add_argument(
        "--prune",
        action="store_true",
        help="remove the images below IMAGES whose files are gone or left out now; not those of a "
        "disk that is away, nor more than a tenth of the index",
    )
    # An option of its own: `--prune [all]` would take the IMAGES behind it for its value.
    parser.add_argument(
        "--prune=all",
        dest="prune",
        action="store_const",
        const="all",
        default=False,
        help="the same, however many they are",
    )
    parser.add_argument(
        "--watch",
        action="store_true",
        help="then keep the index in step with IMAGES until Ctrl-C, with --prune (extra watch)",
    )
    parser.add_argument(
        "--rehash",
        action="store_true",
        help="read and encode all files again, also those of the same size and time as before",
    )
    add_exclude(parser)
    parser.add_argument(
        "--moved",
        nargs=2,
        metavar=("OLD", "NEW"),
        help="first say that a folder of IMAGES, or one above some, is at NEW now; nothing is read "
        "for it",
    )
    parser.add_argument(
        "--workers", type=positive_number, metavar="N", help="threads that decode images"
    )
    parser.add_argument(
        "--local",
        type=extractors,
        choices=Shown([*EXTRACTORS, "auto"]),
        help="also store local features in a new index, for search --verify and --same-object; "
        "several with commas between, as sift,aliked; auto: two that serve whatever photos show",
    )
    parser.add_argument(
        "--regions",
        type=positive_number,
        metavar="N",
        help="also store up to N regions of each image in a new index, to find small objects",
    )
    parser.add_argument(
        "--exif",
        action="store_true",
        help="also keep in a new index when, where and by which camera a photo was taken, for "
        "search --after and --before",
    )
    parser.add_argument(
        "--ocr",
        action="store_true",
        help="also read the text in each photo of a new index, for search --text (extra ocr)",
    )
    parser.add_argument(
        "--captions",
        metavar="FILE",
        help="then give images their captions: lines `path,caption`, in UTF-8; those in .txt and "
        ".xmp files beside photos, and within them, are taken unasked",
    )
    add_max_pixels(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    _check_captions(arguments)
    if arguments.moved and not _move(arguments):
        return DONE
    if arguments.captions and not _sources(arguments):
        with opened(arguments.index) as index:
            return _caption(index, arguments.captions)
    if arguments.watch:
        return _watch(arguments)
    index, report = _indexed(arguments)
    refused = arguments.prune and report.prunable
    status = _caption(index, arguments.captions) if arguments.captions else DONE
    return SKIPPED_SOME if report.problems or refused else status


def _sources(arguments: argparse.Namespace) -> bool:
    """Whether something is to be indexed."""
    return bool(arguments.images or arguments.from_parquet or arguments.from_vectors)


def _check_captions(arguments: argparse.Namespace) -> None:
    """Refuse before the work what would fail after it."""
    from hashnet.retrieval import captions

    if arguments.captions:
        if arguments.watch:
            raise ArgumentError("Captions are given once.", "--watch and --captions")
        captions.read(arguments.captions)


def _caption(index: "indexes.Index", captions: str) -> int:
    """Give images captions; returns the exit status."""
    from hashnet.images import Problem

    report = index.caption(captions)
    print(f"{count(report.captioned, 'caption')} given, {report.unchanged} unchanged")
    reason = "a caption is for it, and it is no image of the index: neither an id, as hashnet list "
    reason += "shows them, nor a path from the folder of the captions or from here"
    name_problems([Problem(name, reason) for name in report.unknown])
    return SKIPPED_SOME if report.unknown else DONE


def _move(arguments: argparse.Namespace) -> bool:
    """Let a folder of the index be where it has moved to; returns whether there is more to do."""
    with opened(arguments.index) as index:
        index.move_root(*arguments.moved)
        _name_moved(dict([arguments.moved]))
    return _sources(arguments) or bool(arguments.captions)


def _indexed(arguments: argparse.Namespace) -> "tuple[Index, UpdateReport]":
    """Make an index or bring it up to date, and say what was done."""
    from hashnet.api import Index

    if arguments.from_vectors:
        return _of_vectors(arguments)
    with Progress() as progress, warnings.catch_warnings():
        warnings.simplefilter("ignore", SkippedWarning)  # they are all named below
        index = Index.of_photos(
            arguments.index,
            arguments.images or (),
            bundle=arguments.bundle,
            bits=arguments.bits,
            backbone=arguments.backbone,
            weights=arguments.weights,
            precision=arguments.precision,
            prune=arguments.prune,
            rehash=arguments.rehash,
            local=arguments.local,
            regions=arguments.regions,
            exif=arguments.exif,
            ocr=arguments.ocr,
            from_parquet=arguments.from_parquet,
            # Nothing of Parquet files is encoded: then the runtime that opens fastest will do.
            runtime="soonest" if arguments.from_parquet else "auto",
            progress=progress,
            **_of_updates(arguments),
        )
    say_which(index)
    report = index.report
    assert report is not None  # `of_photos` has just made it
    if arguments.local == "auto" and report.added:
        _say_chosen(index)
    name_problems(report.problems)
    name_left_out(report.left_out)
    say_passed_over(report.passed_over)
    _name_moved(report.roots_moved)
    _name_kept(report, arguments.prune)
    counts = f"{report.added} added, {report.changed} changed, {report.unchanged} unchanged"
    if report.moved:
        counts += f", {report.moved} renamed"
    if not arguments.from_parquet:
        counts += f", {len(report.removed)} removed, {len(report.problems)} skipped"
    print(counts, flush=True)
    _say_if_outgrown(index)
    return index, report


def _of_vectors(arguments: argparse.Namespace) -> "tuple[Index, UpdateReport]":
    """As `_indexed`, of a file of vectors."""
    from hashnet.api import Index

    given = [name for name in _NOT_OF_VECTORS if getattr(arguments, name)]
    if given:
        shown = ", ".join("IMAGES" if name == "images" else _flag(name) for name in given)
        raise ArgumentError(
            "A file of vectors holds ids, labels and paths too, and nothing else is read.",
            f"--from-vectors and {shown}",
        )
    with Progress() as progress:
        index = Index.of_vectors(
            arguments.index,
            arguments.from_vectors,
            bundle=arguments.bundle,
            bits=arguments.bits,
            backbone=arguments.backbone,
            runtime="soonest",
            progress=progress,
        )
    say_which(index)
    report = index.report
    assert report is not None  # `of_vectors` has just made it
    print(f"{report.added} added, {report.changed} changed, {report.unchanged} unchanged")
    _say_if_outgrown(index)
    return index, report


def _say_chosen(index: "Index") -> None:
    """Say on stderr which local features `--local auto` stands for, why, and what they take."""
    info = index.info()
    names = " and ".join(info["local"].split(","))
    why = ", for prints, and for scenes and things in the round," if "," in info["local"] else ""
    kilobytes = info["local_bytes"] / info["images"] / 1000
    note(f"local features of {names}{why} in {kilobytes:,.0f} kB{_and_time(index)} an image")


def _and_time(index: "Index") -> str:
    """What extraction takes for the first photo of the index; nothing where it has moved."""
    from hashnet import images
    from hashnet.errors import ImageError

    try:
        image = images.read(index[next(iter(index))].path or "")
    except ImageError:
        return ""
    start = time.process_time()
    index.extractor.extract(image)
    return f" and {1000 * (time.process_time() - start):,.0f} ms of a processor"


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _say_if_outgrown(index: "Index") -> None:
    if (drift := index.drift()) and drift.is_outgrown:
        fitted_to = count(drift.fitted_to, "image") if drift.fitted_to else "photos of a training"
        note(
            f"outgrown: the codes were fitted to {fitted_to}, and the index holds "
            f"{drift.num_images:,} now; hashnet refit fits them again, and reads no photo"
        )


def _of_updates(arguments: argparse.Namespace) -> dict[str, Any]:
    """What holds for each update of an index that is kept in step."""
    return {
        "label_from_folder": arguments.label_from == "folder",
        "relabel": arguments.relabel,
        "exclude": arguments.exclude,
        "default_excludes": not arguments.no_default_excludes,
        "workers": arguments.workers,
    }


def _watch(arguments: argparse.Namespace) -> int:
    """Keep an index in step with its folders until this process is told to end."""
    from hashnet.retrieval import watching

    for source in ("from_parquet", "from_vectors"):
        if getattr(arguments, source):
            raise ArgumentError("Files of images can be watched.", f"--watch and {_flag(source)}")
    watching.require_watchfiles()  # if it is missing, better now than after a first index
    arguments.prune = arguments.prune or True
    ended = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        index, report = _indexed(arguments)
        note("watching; Ctrl-C ends it")
        known, stays = set(report.problems), (report.away, report.prunable)
        with Progress() as progress:
            for report in watching.watch(
                index,
                arguments.images,
                prune=arguments.prune,
                progress=partial(progress, "encoding"),
                **_of_updates(arguments),
            ):
                new = [problem for problem in report.problems if problem not in known]
                known = set(report.problems)
                name_problems(new)
                if (report.away, report.prunable) != stays:
                    _name_kept(report, arguments.prune)
                stays = report.away, report.prunable
                _name_moved(report.roots_moved)
                counts = {
                    "added": report.added,
                    "changed": report.changed,
                    "renamed": report.moved,
                    "removed": len(report.removed),
                    "skipped": len(new),
                }
                if any(counts.values()):
                    told = ", ".join(f"{number} {what}" for what, number in counts.items())
                    print(f"{time.strftime('%H:%M:%S')} {told}", flush=True)
    except KeyboardInterrupt:
        note("watching has ended; what was committed stays")
    finally:
        signal.signal(signal.SIGTERM, ended)
    return DONE


def _name_moved(roots: "Mapping[str, str]") -> None:
    for old, new in roots.items():
        note(f"moved: {printable(old)} is now {printable(new)}; its images stay as they are")


def _name_kept(report: "UpdateReport", prune: object) -> None:
    """Say on stderr what stays in the index though its file was not found, and which labels do."""
    most = sorted(report.away, key=report.away.__getitem__, reverse=True)
    for folder in most[:MOST_NAMED]:
        number = count(report.away[folder], "image")
        note(
            f"away: {number} in {printable(folder)}, which is empty or cannot be reached; "
            f"they stay (hashnet remove drops a folder)"
        )
    if more := most[MOST_NAMED:]:
        number = count(sum(map(report.away.__getitem__, more)), "image")
        note(f"away: {number} in {count(len(more), 'more folder')}; they stay")
    if report.prunable:
        kept = f"kept: {count(len(report.prunable), 'image')} whose files are gone or left out now"
        if prune:
            complain(f"{kept}; more than a tenth of the index, which --prune=all removes")
        else:
            note(f"{kept}; --prune removes them")
    if report.labels_kept:
        number = count(report.labels_kept, "label")
        note(f"kept: {number} of earlier runs; --relabel takes those of the folder given now")
