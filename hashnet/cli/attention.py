"""hashnet attention: train a bundle's local features."""

import argparse

from hashnet.cli.options import add_label_from, add_max_pixels
from hashnet.cli.output import DONE, SKIPPED_SOME, name_problems, quiet, say_passed_over
from hashnet.errors import ArgumentError
from hashnet.quiet import import_keras

EXAMPLE = "photos/ --bundle my.bundle"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument(
        "images", nargs="+", metavar="IMAGES", help="image files and folders of them to learn from"
    )
    parser.add_argument(
        "--bundle",
        required=True,
        metavar="B",
        help="bundle with the backbone to use, into which delf.onnx is written (required)",
    )
    add_label_from(
        parser,
        "; without labels, views of each image are a class",
    )
    parser.add_argument(
        "--recipe",
        default="views",
        metavar="R",
        help="views, landmarks, or a TOML file; the backbone is the bundle's (%(default)s)",
    )
    add_max_pixels(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
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
    found, problems, passed_over = images.find(arguments.images)
    name_problems(problems)
    say_passed_over(passed_over)
    labels = [file.folder for file in found] if arguments.label_from == "folder" else None
    if labels and None in labels:
        raise ArgumentError(
            "Labels from folders are those of images in folders.",
            f"{found[labels.index(None)].path} lies in none",
            "Move it into the folder of its class, or leave --label-from out.",
        )
    import_keras()
    trained = attention.train([file.path for file in found], labels, settings, verbose=not quiet())
    attention.save(trained, network)
    name_problems(trained.problems)
    learned = len(found) - len(trained.problems)
    print(f"{arguments.bundle}: local features learned from {learned} images")
    return SKIPPED_SOME if problems or trained.problems else DONE
