"""The `hashnet` command: the one door into all rooms.

Answers go to stdout, progress to stderr. Exit status: 0 done, 1 failed, 2 wrong arguments,
3 done, but some inputs were skipped and named. Commands import what they need when they run,
so that `hashnet search` does not wait for what only training needs.
"""

import argparse
import contextlib
import dataclasses
import inspect
import json
import os
import pathlib
import re
import shlex
import shutil
import sys
import tempfile

from hashnet import __version__
from hashnet.errors import ArgumentError, HashnetError

STAGES = {
    "coarse only": "coarse",
    "coarse then fine": "coarse_to_fine",
    "coarse, fine, verified": "verified",
}
PICTURED_MATCHES = 5  # hits of a query whose matches are drawn
DONE, FAILED, WRONG_ARGUMENTS, SKIPPED_SOME = 0, 1, 2, 3


def main(argv=None):
    """Run one command; returns the exit status.

    Args:
        argv: list of str, the command and its arguments; None for those of this process.

    Returns:
        int: 0 done, 1 failed, 2 wrong arguments, 3 done, but some inputs were skipped and named.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # TensorFlow leaves its faster CPU kernels off on some processors that they run on.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    arguments = parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except ArgumentError as error:
        print(f"hashnet: {error}", file=sys.stderr)
        return WRONG_ARGUMENTS
    except HashnetError as error:
        print(f"hashnet: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("hashnet: stopped; what was committed stays", file=sys.stderr)
        return FAILED
    except BrokenPipeError:
        # The reader has seen enough; python would complain again while it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def parser():
    """The argument parser of all commands."""
    from hashnet.local import extractors
    from hashnet.network import backbones, bundle, export

    top = argparse.ArgumentParser(
        prog="hashnet", description="Search photos by example: hash codes find, features rank."
    )
    top.add_argument("--version", action="version", version=f"hashnet {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name, run, text, example):
        sub = commands.add_parser(
            name, help=text, description=text, epilog=f"example: hashnet {name} {example}"
        )
        sub.set_defaults(run=run)
        return sub

    sub = command("demo", _demo, "train, index, search and evaluate on a bundled sample", "")
    sub.add_argument(
        "--out", default="hashnet-demo", metavar="DIR", help="folder for the results (%(default)s)"
    )

    sub = command("index", _index, "create or update an index", "photos.index ~/Pictures")
    _index_argument(sub)
    sources = sub.add_argument(
        "images", nargs="+", metavar="IMAGES", help="image files and folders of them"
    )
    # Not "*", which would take nothing where an option stands between INDEX and IMAGES.
    sources.required = False
    sub.add_argument(
        "--from-parquet", metavar="OUT", help="instead of IMAGES: what hashnet extract has made"
    )
    sub.add_argument(
        "--bundle",
        metavar="B",
        help="network of a new index; without it, one is fitted to the images, without labels",
    )
    sub.add_argument("--bits", type=int, metavar="N", help="code length where no bundle is given")
    sub.add_argument(
        "--backbone",
        choices=backbones.BACKBONES,
        metavar="NAME",
        help=f"pretrained network where no bundle is given, {', '.join(backbones.BACKBONES)} "
        "(efficientnet_lite0)",
    )
    sub.add_argument(
        "--precision",
        choices=bundle.PRECISIONS,
        help="that a new index encodes in, images and queries; all but float32 flip some bits, "
        "and info says how many (as the bundle says, or float32)",
    )
    sub.add_argument(
        "--label-from",
        choices=["folder"],
        help="label each image with the first folder below the one given",
    )
    sub.add_argument(
        "--prune", action="store_true", help="drop images whose files have vanished from IMAGES"
    )
    sub.add_argument("--workers", type=_positive, metavar="N", help="decoding threads")
    sub.add_argument(
        "--local",
        choices=extractors.NAMES,
        help="also keep local features in a new index, for search --verify",
    )
    sub.add_argument(
        "--regions",
        type=_positive,
        metavar="N",
        help="also keep up to N parts of each image in a new index, to find small objects in it",
    )

    sub = command(
        "extract",
        _extract,
        "encode images into Parquet files, on one machine or many",
        "photos/ s3://bucket/photos more.txt OUT --bundle my.bundle",
    )
    sub.add_argument(
        "images",
        nargs="+",
        metavar="IMAGES",
        help="image files, folders of them, URIs, and .txt files that list these, one a line",
    )
    sub.add_argument("out", metavar="OUT", help="folder of the Parquet files")
    sub.add_argument(
        "--bundle", required=True, metavar="B", help="the network: a bundle or an index (required)"
    )
    sub.add_argument(
        "--label-from",
        choices=["folder"],
        help="label each image with the first folder below the one given",
    )
    sub.add_argument(
        "--shard",
        type=_part,
        default=(1, 1),
        metavar="I/N",
        help="do the I-th of N parts; N machines that see the same files do all",
    )
    sub.add_argument("--workers", type=_positive, metavar="N", help="threads, or with --ray actors")
    sub.add_argument(
        "--ray",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="work on a Ray cluster, or without an address on one that is started here",
    )

    sub = command("search", _search, "find the images most like one", "photos.index cat.jpg -k 5")
    _index_argument(sub)
    sub.add_argument("queries", nargs="+", metavar="QUERY", help="image files")
    sub.add_argument(
        "--by-id",
        action="store_true",
        help="QUERY are ids of images in the index, of which nothing is read or encoded again",
    )
    sub.add_argument("-k", type=_positive, default=10, help="hits for each query (%(default)s)")
    _pool_arguments(sub)
    sub.add_argument(
        "--region", type=_region, metavar="Y0,X0,Y1,X1", help="search by this part, in pixels"
    )
    sub.add_argument(
        "--label", action="append", metavar="L", help="only images with this label, or one of them"
    )
    sub.add_argument(
        "--ids", metavar="F", help="only images whose ids this file lists, one a line; - for stdin"
    )
    sub.add_argument(
        "--verify",
        action="store_true",
        help="put first what local features show to be the same thing (index --local)",
    )
    for name in ("right", "wrong"):
        sub.add_argument(
            f"--{name}",
            action="append",
            default=[],
            metavar="ID",
            help=f"a hit that was {name}; the query moves by it",
        )
    _json_argument(sub)
    sub.add_argument(
        "--picture", metavar="PNG", help="also write a contact sheet, or the matches of --verify"
    )

    sub = command("remove", _remove, "remove images from an index", "photos.index /home/me/cat.jpg")
    _index_argument(sub)
    sub.add_argument("ids", nargs="+", metavar="ID", help="ids, as search shows them")

    sub = command("info", _info, "say what an index holds", "photos.index")
    _index_argument(sub)
    _json_argument(sub)

    sub = command("check", _check, "verify every byte of an index", "photos.index")
    _index_argument(sub)
    _json_argument(sub)

    sub = command("compact", _compact, "give back the space of removed images", "photos.index")
    _index_argument(sub)

    sub = command("evaluate", _evaluate, "measure an index", "photos.index queries/ --report out")
    _index_argument(sub)
    sub.add_argument(
        "queries", nargs="+", metavar="QUERIES", help="class folders, or images with --ground-truth"
    )
    sub.add_argument("--ground-truth", metavar="F", help="JSON file {query: [relevant, ...]}")
    _pool_arguments(sub)
    sub.add_argument(
        "--encode-database",
        action="store_true",
        help="encode the index's images again where class scores cannot be had otherwise",
    )
    sub.add_argument(
        "--verify",
        action="store_true",
        help="also measure what local features add to the two stages before (index --local)",
    )
    sub.add_argument("--report", metavar="DIR", help="write a report with plots and pictures")
    _json_argument(sub)

    sub = command("train", _train, "train a hash network on labels", "photos/ --bundle my.bundle")
    _train_arguments(sub)

    sub = command(
        "attention",
        _attention,
        "train a bundle's local features, which index --local delf then takes",
        "photos/ --bundle my.bundle",
    )
    sub.add_argument(
        "images", nargs="+", metavar="IMAGES", help="image files and folders of them, to learn from"
    )
    sub.add_argument(
        "--bundle",
        required=True,
        metavar="B",
        help="whose backbone sees the images, and where delf.onnx goes (required)",
    )
    sub.add_argument(
        "--label-from",
        choices=["folder"],
        help="label each image with the first folder below the one given; without labels each "
        "image is a class, and views of it are its images",
    )
    sub.add_argument(
        "--recipe",
        default="views",
        metavar="R",
        help="views, landmarks, or a TOML file; the backbone is the bundle's (%(default)s)",
    )

    sub = command(
        "export", _export, "write a network for other runtimes", "my.bundle my.onnx --format onnx"
    )
    sub.add_argument("bundle", metavar="BUNDLE", help="folder of the bundle, or an index")
    sub.add_argument("out", metavar="OUT", help="where it goes; the comparison goes to OUT.json")
    sub.add_argument(
        "--format",
        required=True,
        choices=[*export.SUFFIXES, "bundle"],
        help="what to write (required); a bundle, to index and search in another precision",
    )
    sub.add_argument(
        "--precision",
        choices=list(dict.fromkeys([*export.PRECISIONS, *bundle.PRECISIONS])),
        default=export.PRECISIONS[0],
        help="of LiteRT's or a bundle's numbers; all but float32 flip some bits (%(default)s)",
    )
    sub.add_argument(
        "--images",
        nargs="+",
        metavar="IMAGES",
        help="compare on these images and folders, not on the bundled sample; int8 needs them",
    )

    sub = command(
        "clickhouse",
        _clickhouse,
        "print or run the statements that make an index's tables",
        "init clickhouse://db:8123/photos/all --bits 48 --cluster main",
    )
    sub.add_argument("action", choices=["init"], help="what to do")
    sub.add_argument("url", metavar="URL", help="clickhouse://HOST:PORT/DB/TABLE")
    sub.add_argument("--bits", type=_positive, required=True, metavar="N", help="code length")
    sub.add_argument("--cluster", metavar="NAME", help="spread over this cluster, replicated")
    sub.add_argument("--execute", action="store_true", help="run them, not only print them")

    sub = command("serve", _serve, "search in the browser, and over HTTP", "photos.index")
    _index_argument(sub)
    sub.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    sub.add_argument("--port", type=_whole, default=8000, help="0 for a free one (%(default)s)")
    sub.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="answer to this host name too; localhost and numeric addresses are known",
    )
    sub.add_argument(
        "--token-file",
        metavar="F",
        help="file with the token for changes; without it, $HASHNET_TOKEN, or none are allowed",
    )
    sub.add_argument("--show-paths", action="store_true", help="say in answers where files lie")
    sub.add_argument("--workers", type=_positive, metavar="N", help="threads that search")

    sub = command("duplicates", _duplicates, "list pairs of near-identical images", "photos.index")
    _index_argument(sub)
    sub.add_argument(
        "--threshold",
        type=_whole,
        metavar="T",
        help="pairs with fewer than T differing bits (one bit in sixteen)",
    )
    _json_argument(sub)
    return top


# --- Commands ---------------------------------------------------------------------------------


def _index(arguments):
    from hashnet.retrieval.index import Index

    for option, own in (("bits", "code length"), ("backbone", "backbone")):
        if arguments.bundle and getattr(arguments, option):
            raise ArgumentError(f"A bundle has its own {own}.", f"--bundle and --{option}")
    if arguments.from_parquet:
        return _index_parquet(arguments)
    if not arguments.images:
        raise ArgumentError("An index is made of images.", "none", "Give IMAGES or --from-parquet.")
    if Index.is_there(arguments.index):
        index, known_features = Index.open(arguments.index), {}
        _refuse_another_network(index, arguments)
    else:
        index, known_features = _new_index(arguments)
    with _Progress("encoding") as progress:
        report = index.update(
            arguments.images,
            label_from_folder=arguments.label_from == "folder",
            prune=arguments.prune,
            workers=arguments.workers,
            known_features=known_features,
            progress=progress,
        )
    _name_problems(report.problems)
    print(
        f"{report.added} added, {report.changed} changed, {report.unchanged} unchanged, "
        f"{len(report.removed)} removed, {len(report.problems)} skipped"
    )
    return SKIPPED_SOME if report.problems else DONE


def _index_parquet(arguments):
    from hashnet.errors import FingerprintError
    from hashnet.network import bundle
    from hashnet.retrieval.extraction.parquet import Extraction
    from hashnet.retrieval.index import Index

    taken = (
        "images",
        "bits",
        "backbone",
        "precision",
        "label_from",
        "prune",
        "workers",
        "local",
        "regions",
    )
    given = [name for name in taken if getattr(arguments, name)]
    if given:
        raise ArgumentError(
            "Parquet files hold codes, features and labels, and nothing else.",
            f"--from-parquet and {', '.join(given)}",
        )
    # Seen before there is an index, which would have to stay empty.
    extraction = Extraction.open(arguments.from_parquet)
    total = extraction.num_images
    if arguments.bundle:
        fingerprint = bundle.load(arguments.bundle).fingerprint
        if fingerprint != extraction.bundle.fingerprint:
            raise FingerprintError(
                "Codes are searched with the network that made them.",
                f"{arguments.bundle} ({fingerprint[:12]}) for {extraction.bundle.fingerprint[:12]}",
                "Leave --bundle out: the Parquet files carry theirs.",
            )
    if Index.is_there(arguments.index):
        index = _opened(arguments.index)
    else:
        index = Index.create(
            arguments.index,
            extraction.bundle.folder,
            # Else what such an index stores by itself, which holds float16 exactly.
            feature_dtype="float32" if extraction.feature_dtype == "float32" else None,
            runtime="soonest",
        )
    with _Progress("loading") as progress:
        progress(0, total)
        report = index.add_parquet(arguments.from_parquet, progress=progress)
    print(f"{report.added} added, {report.changed} changed, {report.unchanged} unchanged")
    return DONE


def _extract(arguments):
    from hashnet.retrieval.extraction.extract import extract

    with _Progress("encoding") as progress:
        report = extract(
            arguments.images,
            arguments.out,
            arguments.bundle,
            label_from_folder=arguments.label_from == "folder",
            part=arguments.shard,
            workers=arguments.workers,
            ray=arguments.ray,
            progress=progress,
        )
    _name_problems(report.problems)
    print(f"{report.extracted} extracted, {report.kept} kept, {len(report.problems)} skipped")
    return SKIPPED_SOME if report.problems else DONE


def _new_index(arguments):
    """An empty index, and the features that are known from fitting its network."""
    from hashnet import images

    if arguments.bundle:
        return _created(arguments, arguments.bundle), {}
    found, problems = images.find(arguments.images)
    if not found:
        _name_problems(problems)
        raise HashnetError(
            "A new index needs at least one image.", f"none in {' '.join(arguments.images)}"
        )
    _import_keras()
    from hashnet.train import unsupervised

    asked = {"num_bits": arguments.bits, "backbone": arguments.backbone}
    with tempfile.TemporaryDirectory(prefix="hashnet-") as scratch:
        with _Progress("fitting codes") as progress:
            fitted = unsupervised.fit_bundle(
                scratch,
                [file.path for file in found],
                **{name: value for name, value in asked.items() if value is not None},
                origin={"command": "hashnet index"},
                progress=progress,
            )
        index = _created(arguments, scratch)
    if index.encoder.precision != "float32":
        return index, {}  # the features are float32's
    read = [found[position] for position in fitted.positions]
    versions = [(os.path.abspath(file.path), file.size, file.mtime_ns) for file in read]
    return index, dict(zip(versions, fitted.features, strict=True))


def _created(arguments, bundle_folder):
    """A new index in the precision that is asked for, and no trace of it where that fails."""
    from hashnet.encode import precision
    from hashnet.network import bundle
    from hashnet.retrieval.index import Index

    source = bundle.load(bundle_folder)
    kept = {"local": arguments.local, "regions": arguments.regions or 0}
    if arguments.precision in (None, source.precision):
        return Index.create(arguments.index, bundle_folder, **kept)
    with tempfile.TemporaryDirectory(prefix="hashnet-") as scratch:
        converted = precision.convert(
            source, scratch, arguments.precision, images_from=arguments.images
        )
        return Index.create(arguments.index, converted.folder, **kept)


def _import_keras():
    """Import Keras without the lines that TensorFlow writes about the machine on the way in."""
    with _without_chatter():
        import keras  # noqa: F401


@contextlib.contextmanager
def _without_chatter():
    """Drop what libraries write to stderr from below Python; what goes wrong they raise."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _refuse_another_network(index, arguments):
    from hashnet.errors import FingerprintError
    from hashnet.network import bundle

    way_out = "Leave the option out to add to this index, or make another index."
    store, config = index.store, index.encoder.config
    for option, kept, what, shown in (
        ("bits", config.num_bits, "code length", f"{config.num_bits} bits"),
        ("backbone", config.backbone, "backbone", config.backbone),
        ("local", store.extractor, "local features", store.extractor or "an index without any"),
        (
            "regions",
            store.regions_per_image,
            "number of regions",
            store.regions_per_image or "none",
        ),
        ("precision", index.encoder.precision, "precision", index.encoder.precision),
    ):
        given = getattr(arguments, option)
        if given not in (None, kept):
            raise FingerprintError(
                f"An index keeps its {what}.", f"--{option} {given} for {shown}", way_out
            )
    if arguments.bundle:
        fingerprint = bundle.load(arguments.bundle).fingerprint
        if fingerprint != index.encoder.fingerprint:
            raise FingerprintError(
                "An index keeps its network.",
                f"{arguments.bundle} ({fingerprint[:12]}) for {index.encoder.fingerprint[:12]}",
                way_out,
            )


def _search(arguments):
    from hashnet import images
    from hashnet.errors import ImageError, UnknownIdError
    from hashnet.retrieval.search.engine import Engine

    if arguments.by_id and arguments.region:
        raise ArgumentError("A region is cut out of a file.", "--by-id and --region")
    engine = Engine(_opened(arguments.index))
    options = {
        "k": arguments.k,
        "threshold": arguments.threshold,
        "pool": arguments.pool,
        "label": arguments.label,
        "ids": _listed_ids(arguments.ids),
        "verify": arguments.verify,
        "right": arguments.right,
        "wrong": arguments.wrong,
    }
    results, problems = [], []
    for query in arguments.queries:
        try:
            if arguments.by_id:
                result = engine.search_id(query, **options)
            else:
                result = engine.search(query, region=arguments.region, **options)
        except (ImageError, UnknownIdError) as error:
            if len(arguments.queries) == 1:
                raise
            problems.append(images.Problem(query, str(error)))
            continue
        results.append((engine.path(query) if arguments.by_id else query, result.hits))
        if arguments.json:
            print(json.dumps(result.to_dict()))
        else:
            _print_result(result)
    _name_problems(problems)
    if not results:
        return FAILED
    if arguments.picture:
        from hashnet.images import sheets

        if arguments.verify:
            sheet = sheets.match_sheet(_matched(engine, results, arguments.region))
        else:
            sheet = sheets.contact_sheet(results)
        images.write(arguments.picture, sheet)
        print(f"wrote {arguments.picture}", file=sys.stderr)
    return SKIPPED_SOME if problems else DONE


def _matched(engine, results, region):
    """(query, hit, query_yx, yx) of the hits of each query that were verified."""
    for query, hits in results:
        for hit in hits[:PICTURED_MATCHES]:
            if hit.inliers:
                found = engine.match(query, hit.id, region=region)
                offset = (0, 0) if region is None else region[:2]
                yield query, hit, found.query_yx + offset, found.yx


def _opened(folder):
    """An index for a handful of queries or none: the runtime that opens fastest, not runs so."""
    from hashnet.retrieval.index import Index

    return Index.open(folder, runtime="soonest")


def _listed_ids(path):
    """The ids that a file lists, or None without a file."""
    if path is None:
        return None
    try:
        content = sys.stdin.buffer.read() if path == "-" else pathlib.Path(path).read_bytes()
    except OSError as error:
        raise ArgumentError(
            "Ids come from a file, one a line.", f"{path}: {error.strerror}"
        ) from error
    lines = (line.removesuffix(b"\r") for line in content.split(b"\n"))
    return [os.fsdecode(line) for line in lines if line]


def _print_result(result):
    stages = ", ".join(
        f"{stage} {time_taken:.1f} ms"
        for stage, time_taken in result.milliseconds.items()
        if time_taken is not None
    )
    print(
        f"{_printable(result.query)}: pool of {result.pool} with fewer than "
        f"{result.threshold} bits apart ({stages})"
    )
    for rank, hit in enumerate(result.hits, 1):
        label = f"  [{_printable(hit.label)}]" if hit.label is not None else ""
        inliers = "" if hit.inliers is None else f"  {hit.inliers:4} inliers"
        region = "" if hit.region is None else f"  at {','.join(map(str, hit.region))}"
        print(
            f"{rank:4}  {hit.bits_apart:3} bits  {hit.distance:7.4f}{inliers}{label}  "
            f"{_printable(hit.path or hit.id)}{region}"
        )


def _remove(arguments):
    from hashnet import images

    removed = _opened(arguments.index).remove(arguments.ids)
    unknown = [id for id in arguments.ids if id not in set(removed)]
    _name_problems([images.Problem(id, "no image of this id is in the index") for id in unknown])
    print(f"{len(removed)} removed")
    return DONE if not unknown else SKIPPED_SOME if removed else FAILED


def _info(arguments):
    info = _opened(arguments.index).info()
    if arguments.json:
        print(json.dumps(info))
        return DONE
    labels = info.pop("labels")
    for name, value in info.items():
        print(f"{name:15} {_printable(str(value))}")
    for label, count in sorted(labels.items()):
        print(f"  label {count:9}  {_printable(label)}")
    return DONE


def _check(arguments):
    from hashnet.retrieval.store.folder import store

    _refuse_url(arguments.index, "ClickHouse verifies its own blocks: CHECK TABLE does it.")

    problems = store.check(arguments.index)
    if arguments.json:
        print(json.dumps({"index": arguments.index, "problems": problems}))
    else:
        print("\n".join(map(_printable, problems)) or "every byte is as it was written")
    return FAILED if problems else DONE


def _refuse_url(index, way_out):
    if "://" in index:
        rule = "This command reads the files of an index folder."
        raise ArgumentError(rule, _shown(index), way_out)


def _compact(arguments):
    with _opened(arguments.index).store.writer() as writer:
        report = writer.compact()
    gone = report.rows_before - report.rows_after - report.regions_gone
    regions = f" and {report.regions_gone} of their regions" if report.regions_gone else ""
    print(f"{gone} removed rows{regions} gone, {report.bytes_freed} bytes given back")
    return DONE


def _clickhouse(arguments):
    from hashnet.retrieval.store import clickhouse

    statements = clickhouse.ddl(arguments.url, num_bits=arguments.bits, cluster=arguments.cluster)
    if arguments.execute:
        clickhouse.execute(arguments.url, statements)
    print("".join(f"{statement};\n" for statement in statements), end="")
    return DONE


def _serve(arguments):
    try:
        from hashnet.retrieval.service import server
    except ImportError as error:
        raise HashnetError(
            "Serving needs packages that searching does not.",
            f"no {error.name}",
            "Install them with `pip install hashnet[serve]`.",
        ) from error

    workers = arguments.workers or len(os.sched_getaffinity(0))
    settings = server.Settings(
        token=server.token_from(arguments.token_file),
        show_paths=arguments.show_paths,
        hosts=(arguments.host, *arguments.allow_host),
        workers=workers,
    )

    def ready(url):
        print(f"serving {_shown(arguments.index)} at {url} (Ctrl-C stops)", flush=True)

    server.serve(
        arguments.index,
        host=arguments.host,
        port=arguments.port,
        settings=settings,
        ready=ready,
    )
    return DONE


def _duplicates(arguments):
    from hashnet.retrieval.search.engine import Engine

    index = _opened(arguments.index)
    threshold = arguments.threshold
    if threshold is None:
        threshold = max(1, index.encoder.config.num_bits // 16)
    for first, second in Engine(index).duplicates(threshold):
        if arguments.json:
            pair = {
                "ids": [first.id, second.id],
                "paths": [first.path, second.path],
                "bits_apart": second.bits_apart,
                "distance": second.distance,
            }
            print(json.dumps(pair))
        else:
            print(
                f"{second.bits_apart:3} bits  {second.distance:7.4f}  "
                f"{_printable(first.path or first.id)}  {_printable(second.path or second.id)}"
            )
    return DONE


def _evaluate(arguments):
    from hashnet.retrieval.evaluation import report
    from hashnet.retrieval.evaluation.evaluate import evaluate
    from hashnet.retrieval.index import Index
    from hashnet.train import label_free

    _refuse_url(arguments.index, "Evaluate an index folder of the same images.")
    if arguments.report:
        report.require_plots()
        report.check_place(arguments.report)
    with _Stages() as progress:
        evaluation = evaluate(
            Index.open(arguments.index),
            arguments.queries,
            ground_truth=arguments.ground_truth,
            threshold=arguments.threshold,
            pool=arguments.pool,
            baselines={
                "lsh": label_free.lsh,
                "pca_sign": label_free.pca_sign,
                "itq": label_free.itq,
            },
            baseline_bits=(12, 24, 64, 128) if arguments.report else (),
            encode_database=arguments.encode_database,
            verify=arguments.verify,
            progress=progress,
        )
    _name_problems(evaluation.problems)
    if arguments.report:
        report.write(arguments.report, evaluation)
        print(f"wrote {arguments.report}", file=sys.stderr)
    if arguments.json:
        print(json.dumps(evaluation.to_dict()))
    else:
        _print_evaluation(evaluation.to_dict())
    return SKIPPED_SOME if evaluation.problems else DONE


def _print_evaluation(figures):
    print(
        f"{figures['queries']} queries, {figures['database']} images, {figures['bits']} bits\n\n"
        f"{'':22} {'mAP':>8} {'mAP@1000':>9}"
    )
    print(f"{'these codes':22} {figures['map_all']:8.4f} {figures['map_at_1000']:9.4f}")
    for name, row in figures["baselines"].items():
        if "map_all" in row:
            print(f"{name:22} {row['map_all']:8.4f} {row['map_at_1000']:9.4f}")
        else:
            print(f"{name:22} {row['not_measured']}")
    if "stages" in figures:
        print(
            f"\n{figures['stages']['queries']} queries   {'R@1':>8} {'R@5':>8} {'mAP':>8} {'ms':>9}"
        )
        for title, name in STAGES.items():
            row = figures["stages"][name]
            print(
                f"{title:22} {row['found_at_1']:8.4f} {row['found_at_5']:8.4f} "
                f"{row['map_all']:8.4f} {row['milliseconds']:9.2f}"
            )
    print(f"\n{figures['protocol']}")


def _train(arguments):
    from hashnet.train import config

    changes = {
        name: value
        for name, value in vars(arguments).items()
        if name in _train_fields() and value is not None
    }
    settings = (
        config.from_recipe(arguments.recipe, **changes)
        if arguments.recipe
        else config.TrainConfig(**changes)
    )
    _import_keras()
    from hashnet.train import supervised

    trained = supervised.train(
        arguments.data, arguments.bundle, settings, command=shlex.join(["hashnet", *sys.argv[1:]])
    )
    _name_problems(trained.problems)
    print(f"{arguments.bundle}: {settings.num_bits} bits, {trained.minutes:.1f} minutes")
    return SKIPPED_SOME if trained.problems else DONE


def _attention(arguments):
    from hashnet import images
    from hashnet.network import bundle
    from hashnet.train import attention

    network = bundle.load(arguments.bundle)
    if network.folder.name == bundle.INSIDE_AN_INDEX:
        raise ArgumentError(
            "An index keeps its local features.", f"{network.folder}", "Train those of a bundle."
        )
    settings = attention.from_recipe(
        arguments.recipe, backbone=network.config.backbone, start_from=arguments.bundle
    )
    found, problems = images.find(arguments.images)
    _name_problems(problems)
    labels = [file.folder for file in found] if arguments.label_from == "folder" else None
    if labels and None in labels:
        raise ArgumentError(
            "Labels from folders are those of images in folders.",
            f"{found[labels.index(None)].path} lies in none",
            "Move it into the folder of its class, or leave --label-from out.",
        )
    _import_keras()
    trained = attention.train([file.path for file in found], labels, settings)
    attention.save(trained, network)
    _name_problems(trained.problems)
    learned = len(found) - len(trained.problems)
    print(f"{arguments.bundle}: local features learned from {learned} images")
    return SKIPPED_SOME if problems or trained.problems else DONE


def _export(arguments):
    from hashnet.encode import precision
    from hashnet.network import bundle, export

    opened = bundle.load(arguments.bundle)
    if arguments.format == "bundle":
        made = precision.convert(
            opened, arguments.out, arguments.precision, images_from=arguments.images
        )
        found = made.origin["precision"]
        print(
            f"{arguments.out}: compared with float32 on {found['images']} images\n"
            f"  bits that differ      {found['bits_that_differ']} of {found['bits']}"
        )
        return DONE
    _import_keras()
    with _without_chatter():
        comparison = export.export(
            opened,
            arguments.out,
            arguments.format,
            precision=arguments.precision,
            images_from=arguments.images,
        )
    differences = ", ".join(
        f"{name} {difference:.1g}" for name, difference in comparison.largest_difference.items()
    )
    print(
        f"{arguments.out}: compared with Keras on {comparison.images} images "
        f"({comparison.images_from})\n"
        f"  largest difference    {differences}\n"
        f"  bits that differ      {comparison.bits_that_differ} of {comparison.bits}"
    )
    return DONE


def _demo(arguments):
    import numpy as np

    from hashnet import images, metrics
    from hashnet.images import sheets
    from hashnet.samples import fashion_mnist

    _import_keras()
    from hashnet.retrieval.index import Index
    from hashnet.retrieval.search.engine import Engine
    from hashnet.train import data, supervised
    from hashnet.train.config import TrainConfig

    out = pathlib.Path(arguments.out)
    results_file = out / "results.json"
    if out.exists() and any(out.iterdir()) and not results_file.exists():
        raise HashnetError("The demo needs a folder of its own.", str(out), "Give another --out.")
    shutil.rmtree(out, ignore_errors=True)

    def say(text):
        print(text, file=sys.stderr, flush=True)

    say("1/5  writing 4,000 photos and 500 queries of the bundled sample of Fashion-MNIST")
    sample = fashion_mnist()
    photos, queries = (
        _write_photos(out / name, sample[f"{part}_images"], sample[f"{part}_labels"])
        for name, part in (("photos", "train"), ("queries", "test"))
    )
    say("2/5  training a hash layer of 48 bits on features of a pretrained network")
    settings = TrainConfig(num_bits=48, image_size=64, epochs=0)
    labelled = data.from_arrays(sample["train_images"], sample["train_labels"])
    trained = supervised.train(labelled, out / "bundle", settings, command="hashnet demo")
    say("3/5  indexing")
    index = Index.create(out / "index", out / "bundle")
    with _Progress("encoding") as progress:
        index.update([out / "photos"], label_from_folder=True, progress=progress)
    say("4/5  searching")
    engine = Engine(index)
    answers = [engine.search(path, k=10) for path in queries]
    milliseconds = np.median([sum(filter(None, one.milliseconds.values())) for one in answers])
    truth = [path.parent.name for path in queries]
    say("5/5  evaluating")
    encoded = index.encoder.encode(queries)
    label_codes, names = engine.snapshot.labels()
    evaluation = metrics.evaluate_codes(
        encoded.codes,
        np.array(truth),
        engine.snapshot.codes,
        np.array(names)[label_codes],
        num_bits=settings.num_bits,
    )
    fine = np.mean(
        [
            [hit.label == label for hit in one.hits]
            for one, label in zip(answers, truth, strict=True)
        ]
    )
    picture = out / "results.png"
    shown = range(0, len(queries), len(queries) // 10)
    sheet = [(queries[row], answers[row].hits[:5]) for row in shown]
    images.write(picture, sheets.contact_sheet(sheet))
    results = {
        "database": len(photos),
        "queries": len(queries),
        "bits": settings.num_bits,
        "training_minutes": round(trained.minutes, 2),
        "map_all_tie_aware": round(evaluation.map_all.expected, 4),
        "precision_at_10_coarse_to_fine": round(float(fine), 4),
        "milliseconds_per_query_median": round(float(milliseconds), 2),
        "milliseconds_of_stages": answers[-1].milliseconds,
    }
    results_file.write_text(json.dumps(results, indent=1) + "\n")
    print(
        f"{results['queries']} queries against {results['database']} images, 48 bits, trained in "
        f"{trained.minutes * 60:.0f} seconds:\n"
        f"  mAP of the codes, whole database, tie-aware   {evaluation.map_all.expected:.3f}\n"
        f"  right class among 10 hits, coarse to fine     {fine:.3f}\n"
        f"  one query, from file to hits, median          {milliseconds:.1f} ms\n"
        f"  results as a picture                          {picture}\n\n"
        "Now your own photos, no labels needed:\n"
        "  hashnet index photos.index FOLDER\n"
        "  hashnet search photos.index PHOTO --picture hits.png\n"
        "(from a checkout: .venv/bin/hashnet)"
    )
    return DONE


def _write_photos(folder, pixels, labels):
    """Write grey images as class folders of PNG files; returns their paths."""
    from hashnet import images

    paths = []
    for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        path = folder / label / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(images.to_png(image[..., None].repeat(3, axis=2)))
        paths.append(path)
    return paths


# --- Arguments and output ---------------------------------------------------------------------


def _index_argument(sub):
    sub.add_argument(
        "index", metavar="INDEX", help="folder of the index, or clickhouse://HOST:PORT/DB/TABLE"
    )


def _train_fields():
    from hashnet.train.config import TrainConfig

    return {field.name: field for field in dataclasses.fields(TrainConfig)}


def _train_arguments(sub):
    """Options that mirror the fields of `TrainConfig`, which also holds their defaults."""
    from hashnet.train import config

    sub.add_argument("data", metavar="DATA", help="folder of class folders, CSV, or idx files")
    sub.add_argument("--bundle", required=True, metavar="B", help="where the network goes")
    sub.add_argument(
        "--recipe",
        metavar="R",
        help=f"start from one of {', '.join(config.recipe_names())}, or a TOML file",
    )
    choices = {
        "loss": config.LOSSES,
        "optimizer": config.OPTIMIZERS,
        "schedule": config.SCHEDULES,
        "precision": config.PRECISIONS,
    }
    meanings = _meanings(config.TrainConfig)
    for name, field in _train_fields().items():
        flag = "--bits" if name == "num_bits" else "--" + name.replace("_", "-")
        # Defaults stay with the dataclass, so that a recipe's value is not covered by them.
        meaning = f"{meanings.get(name, '')} ({field.default!r})".lstrip()
        options = {"dest": name, "default": None, "help": meaning}
        if field.default is True or field.default is False:
            options["action"] = argparse.BooleanOptionalAction
        elif isinstance(field.default, tuple):
            options.update(type=_names, metavar="A,B,...")
        else:
            options.update(type=type(field.default), choices=choices.get(name))
            options["metavar"] = None if name in choices else name.split("_")[-1].upper()
        sub.add_argument(flag, **options)


def _meanings(dataclass):
    """dict of field to what the docstring says of it, as argparse takes text.

    Empty where Python runs without docstrings (-OO).
    """
    attributes = inspect.getdoc(dataclass).partition("Attributes:\n")[2].split("\n\n")[0]
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", attributes, re.MULTILINE)
    return {name: " ".join(text.split()).replace("%", "%%") for name, text in entries}


def _names(text):
    return tuple(text.split(","))


def _pool_arguments(sub):
    pool = sub.add_mutually_exclusive_group()
    pool.add_argument(
        "--threshold",
        type=_whole,
        metavar="T",
        help="the pool holds images with fewer than T differing bits",
    )
    pool.add_argument(
        "--pool", type=_positive, metavar="N", help="smallest threshold for a pool of N or more"
    )


def _json_argument(sub):
    sub.add_argument("--json", action="store_true", help="print JSON instead of text")


def _at_least(least, name):
    """The type of an argument that is a number of at least so much; `name` is for refusals."""

    def number(text):
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{text} is below {least}")
        return value

    number.__name__ = name
    return number


_whole, _positive = _at_least(0, "whole number"), _at_least(1, "positive number")


def _part(text):
    part, parts = (int(number) for number in text.split("/"))
    if not 1 <= part <= parts:
        raise argparse.ArgumentTypeError(f"{text} is not 1/N to N/N")
    return part, parts


_part.__name__ = "part of a whole, as 1/4"


def _region(text):
    top, left, bottom, right = (int(part) for part in text.split(","))
    return top, left, bottom, right


_region.__name__ = "region"


def _printable(text):
    """`text` on one line: a file's name may hold anything, escape sequences included."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _shown(index):
    """Where an index is, on one line and without the password that a URL may hold."""
    return _printable(re.sub(r"(://[^/@:]*):[^/@]*@", r"\1@", index))


def _name_problems(problems):
    for problem in problems:
        print(f"skipped {_printable(problem.path)}: {_printable(problem.reason)}", file=sys.stderr)


class _Progress:
    """A progress bar on stderr, where a person is looking; called with done and total."""

    def __init__(self, text):
        self._text = text
        self._bar = None

    def __enter__(self):
        return self

    def __call__(self, done, total):
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(
                total=total, desc=self._text, unit="images", file=sys.stderr, disable=None
            )
        self._bar.update(done - self._bar.n)

    def __exit__(self, *_):
        if self._bar is not None:
            self._bar.close()


class _Stages:
    """One progress bar after another; called with stage, done and total."""

    def __init__(self):
        self._stage, self._bar = None, None

    def __enter__(self):
        return self

    def __call__(self, stage, done, total):
        if stage != self._stage:
            self.__exit__()
            self._stage, self._bar = stage, _Progress(stage)
        self._bar(done, total)

    def __exit__(self, *_):
        if self._bar is not None:
            self._bar.__exit__()
