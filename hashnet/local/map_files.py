"""The ONNX files of local features and regions: a head on the map of an encoder, or with a network.

An index carries the weights of its backbone once, in `encoder.onnx`. Where that file gives the map
that a head is for, the head's own file holds the head alone, and the two are joined when they are
opened. Otherwise the file also holds a network up to its map.
"""

import os
import pathlib
from typing import TYPE_CHECKING

from hashnet.errors import ArgumentError, BundleError, ShapeError
from hashnet.local import delf_head, delf_network
from hashnet.local.delf_head import Head
from hashnet.network import bundle as bundles
from hashnet.network import onnx_graph, runtimes
from hashnet.network.backbones import Backbone

if TYPE_CHECKING:
    import keras
    import onnx

Path = str | os.PathLike[str]


def export(
    path: Path,
    backbone: "str | keras.Model",
    head: Head | None,
    *,
    scores_only: bool = False,
    size: int | None = None,
) -> None:
    """Write a backbone up to its map with a head behind it.

    Args:
        path: str or path-like.
        backbone: str, one with weights of ImageNet, or a `keras.Model`, as from
            `delf_network.load_backbone`.
        head: a `Head`. None for the preset of the backbone, or, where it has none or it is a
            network of yours, `Head.untrained`.
        scores_only: bool. As for `delf_head.network`.
        size: int or None. Side in pixels of the images that it shall take; None for any.

    Raises:
        UnknownNameError: there is no such backbone.
        ArgumentError: it takes images of one size only.
        WeightsError: its weights cannot be had.
        ShapeError: the head is for another map.
    """
    from hashnet.network import onnx_writer

    if isinstance(backbone, str):
        model = delf_network.load_backbone(backbone)
        if head is None and delf_head.has_preset(backbone):
            head = Head.load(backbone)
    else:
        model = backbone
    channels = model.output["map"].shape[-1]
    head = head or Head.untrained(channels)
    _check_fits(head, channels)
    network = onnx_writer.write_map(model)
    behind = delf_head.network(head, None if scores_only else onnx_graph.geometry_of(network))
    _write(path, onnx_graph.joined(onnx_graph.up_to_map(network, size), behind))


def export_for(
    bundle: bundles.Bundle,
    path: Path,
    head: Head | None = None,
    *,
    scores_only: bool = False,
    size: int | None = None,
) -> None:
    """Write what an index of a bundle needs besides its encoder: the head alone, if that is enough.

    It is enough where the encoder gives the map that the head is for: a head of the caller's, which
    must be for this bundle's map, or the preset, if the bundle's backbone has the weights of
    ImageNet, or a backbone without a preset. Else a network of ImageNet's weights is written too.

    Args:
        bundle: a `Bundle`.
        path, head, scores_only, size: as for `export`.

    Raises:
        ArgumentError, WeightsError, ShapeError: as for `export`.
    """
    known, name = bundle.config.known, bundle.config.backbone
    delf_network.check_has_map(known)
    encoder = encoder_of(bundle)
    if encoder is not None:
        fitting = head or _head_for(encoder, known)
        if fitting is not None:
            _check_fits(fitting, known.map_channels)
            seen = None if scores_only else onnx_graph.geometry_of(encoder)
            _write(path, delf_head.network(fitting, seen))
            return
    if known.own is not None:
        raise ArgumentError(
            "Local features and regions of a network of yours come of its float32 encoder.",
            f"{bundle.precision} of {name}",
        )
    backbone: str | keras.Model = name
    if head is not None:
        backbone = delf_network.load_backbone(name, start_from=bundle.folder)
    export(path, backbone, head, scores_only=scores_only, size=size)


def _check_fits(head: Head, channels: int) -> None:
    if channels != len(head.mean):
        raise ShapeError(
            "A head must be for the backbone's map.",
            f"a map of {channels} channels, a head for {len(head.mean)}",
        )


def _head_for(encoder: "onnx.ModelProto", backbone: Backbone) -> Head | None:
    name = backbone.name.partition(":")[0]  # its map does not depend on the pooling behind it
    if backbone.own is not None or not delf_head.has_preset(name):
        return Head.untrained(backbone.map_channels)
    map_digest = onnx_graph.digest(onnx_graph.up_to_map(encoder))
    return Head.load(name) if map_digest == delf_head.PRESET_MAPS.get(name) else None


def _write(path: Path, network: "onnx.ModelProto") -> None:
    pathlib.Path(path).write_bytes(onnx_graph.content(network))


def encoder_of(bundle: bundles.Bundle) -> "onnx.ModelProto | None":
    """The encoder of a bundle, where it gives a map in float32 and says what its places see.

    Args:
        bundle: a `Bundle`.

    Returns:
        The network; None if heads need one of their own.
    """
    if bundle.precision == "int8":
        return None
    network = onnx_graph.parsed(bundle.encoder_bytes(), bundle.encoder_file)
    known = onnx_graph.has_map(network) and onnx_graph.geometry_of(network) is not None
    return network if known else None


def read(
    path: Path,
    rule: str,
    way_out: str,
    *,
    size: int | None = None,
    encoder: Path | None = None,
) -> bytes:
    """The whole network of a head's file, for `runtimes.open_bytes`, which checks it.

    Args:
        path: str or path-like.
        rule, way_out: str. What the error says before and after the path.
        size: int or None. Side in pixels of the images that it shall take; None for any.
        encoder: str, path-like or None. The encoder that gives the map, where the file is a head
            alone; None for the one beside it.

    Returns:
        bytes of an ONNX file.

    Raises:
        BundleError: the file, or the encoder beside it that it needs, is missing or damaged.
    """
    path = pathlib.Path(path)
    content = runtimes.read(path, rule, way_out)
    head = onnx_graph.parsed(content, path)
    if [end.name for end in head.graph.input] != [onnx_graph.MAP]:
        return content
    beside = pathlib.Path(encoder or path.with_name(bundles.ENCODER))
    network = onnx_graph.parsed(runtimes.read(beside, rule, way_out), beside)
    try:
        whole = onnx_graph.joined(onnx_graph.up_to_map(network, size), head)
    except BundleError as error:
        raise BundleError(rule, f"{path}: {error}", way_out) from error
    return onnx_graph.content(whole)
