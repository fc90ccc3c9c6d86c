"""The networks that an index carries: which files they are, and whether they are the right ones."""

import os
import pathlib
import shutil
from typing import TYPE_CHECKING, Any

from hashnet.errors import FingerprintError, StoreError
from hashnet.local import extractors
from hashnet.local.features import Extractor
from hashnet.network import bundle as bundles

if TYPE_CHECKING:
    from hashnet.local.regions import Proposer


def bundle_of(store: Any) -> bundles.Bundle:
    """The bundle in an index's folder, which made its codes.

    Args:
        store: a `Store`.

    Returns:
        `Bundle`.

    Raises:
        StoreError: the index has none.
        FingerprintError: it is another one.
    """
    if store.encoder_folder is None:
        raise StoreError("An index carries its encoder.", f"none in {store.folder}")
    store.verify_encoder(bundles.DESCRIPTION)  # which has the checksum of the other
    bundle = bundles.load(store.encoder_folder)
    if bundle.fingerprint != store.fingerprint:
        raise FingerprintError(
            "An index is searched with the encoder that made its codes.",
            f"codes of {store.fingerprint[:12]}, an encoder of {bundle.fingerprint[:12]}",
            "Restore the index's encoder folder, or build the index again.",
        )
    return bundle


def extractor_of(store: Any) -> Extractor:
    """What gives images the kind of local features that an index holds.

    Args:
        store: a `Store`.

    Returns:
        `Extractor`.

    Raises:
        StoreError: the index has no local features.
        FingerprintError: the extractor gives other features than the index holds.
    """
    if store.extractor is None:
        raise StoreError(
            "Verification compares local features.",
            f"an index without any: {store.folder}",
            "Make an index with `hashnet index --local sift`.",
        )
    networks = extractors.files_of(store.extractor).values()
    if networks:
        store.verify_encoder(*networks, bundles.ENCODER)
    extractor = extractors.open(store.extractor, store.encoder_folder)
    if extractor.descriptor_dim != store.descriptor_dim:
        raise FingerprintError(
            "An index is searched with the extractor that made its local features.",
            f"descriptors of {store.descriptor_dim}, an extractor of "
            f"{extractor.descriptor_dim} numbers",
            "Restore the index's encoder folder, or build the index again.",
        )
    return extractor


def proposer_of(store: Any) -> "Proposer":
    """What proposes the regions of an image that is added to an index.

    Args:
        store: a `Store`.

    Returns:
        `Proposer`.

    Raises:
        BundleError: the index has none, or it is damaged.
    """
    from hashnet.local import regions

    store.verify_encoder(regions.FILE, bundles.ENCODER)
    return regions.Proposer.open(os.path.join(store.encoder_folder, regions.FILE))


def export_networks(
    bundle: bundles.Bundle, folder: str | os.PathLike[str], *, local: str | None, regions_too: bool
) -> dict[str, pathlib.Path]:
    """Write the networks that a new index needs besides its bundle.

    Args:
        bundle: the `Bundle` that the index will carry.
        folder: str or path-like, where they are written.
        local: str, the extractors of local features as for `extractors.names_of`, or None.
        regions_too: bool. Whether the index keeps regions of its images.

    Returns:
        dict of name to path.
    """
    from hashnet.local import delf, learned, regions

    files = {}
    for name, file in extractors.files_of(local).items():
        files[file] = pathlib.Path(folder) / file
        carried = bundle.folder / file
        if carried.is_file():
            shutil.copyfile(carried, files[file])
        elif name == "delf":
            delf.export_for(bundle, files[file])
        else:
            learned.export(name, files[file])
    if regions_too:
        files[regions.FILE] = pathlib.Path(folder) / regions.FILE
        regions.export_for(bundle, files[regions.FILE])
    return files
