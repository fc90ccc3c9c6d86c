"""hashnet export: write a network for other runtimes."""

import argparse

from hashnet import system
from hashnet.cli.choices import EXPORT_PRECISIONS, FORMATS, PRECISIONS
from hashnet.cli.output import DONE
from hashnet.quiet import import_keras

EXAMPLE = "my.bundle my.onnx --format onnx"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument(
        "bundle", metavar="BUNDLE", help="folder of the bundle, or an index that carries one"
    )
    parser.add_argument(
        "out",
        metavar="OUT",
        help="file or folder to write; how it compares with the original goes to OUT.json",
    )
    parser.add_argument(
        "--format",
        required=True,
        choices=[*FORMATS, "bundle"],
        help="what to write; bundle: one that indexes and searches in another precision (required)",
    )
    parser.add_argument(
        "--precision",
        choices=list(dict.fromkeys([*EXPORT_PRECISIONS, *PRECISIONS])),
        default=EXPORT_PRECISIONS[0],
        help="of a litert file or a bundle; any but float32 flips some bits (%(default)s)",
    )
    parser.add_argument(
        "--images",
        nargs="+",
        metavar="IMAGES",
        help="images and folders to compare on, instead of the bundled sample; int8 needs them",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
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
    import_keras()
    with system.without_stderr():
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
