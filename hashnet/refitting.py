"""Codes without labels that follow their library: fitted again, to what an index holds now."""

import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

from hashnet import codes
from hashnet.encode.encoder import Encoder
from hashnet.errors import ArgumentError
from hashnet.network import bundle as bundles
from hashnet.network import onnx_graph
from hashnet.train import unsupervised

RECODING = "computing codes"


def refit(
    store: Any,
    bundle: bundles.Bundle,
    *,
    seed: int,
    progress: Callable[[str, int, int], None] | None,
) -> int:
    """As `Index.refit` says.

    Args:
        store: a `Store`.
        bundle: the `Bundle` that it carries.
        seed, progress: as for `Index.refit`.

    Returns:
        int. Images.
    """
    if not bundle.is_label_free or bundle.precision != "float32":
        raise ArgumentError(
            "Codes without labels are fitted again to photos.",
            f"{bundle.precision} codes of {bundle.origin.get('command', 'another network')}",
            "Make another index: hashnet index NEW IMAGES.",
        )
    with store.writer() as writer, store.snapshot() as snapshot:
        rows = snapshot.rows_beginning_with("")  # of all images
        if not len(rows):
            raise ArgumentError("Codes are fitted to at least one image.", str(store.folder))
        chosen = rows[unsupervised.sample(len(rows), seed)]
        snapshot.verify_features(chosen)
        features = snapshot.features(chosen).astype(np.float32)
        num_rows = snapshot.num_items + snapshot.num_regions
        with tempfile.TemporaryDirectory(prefix="hashnet-") as scratch:
            network = onnx_graph.parsed(bundle.encoder_file.read_bytes(), bundle.encoder_file)
            fitted = unsupervised.fit_hash_layer(
                os.path.join(scratch, "bundle"),
                network,
                bundle.config,
                features,
                seed=seed,
                origin=bundle.origin,
                progress=progress,
            )
            encoder, num_done = Encoder(fitted), 0

            def recoded(features: np.ndarray) -> np.ndarray:
                nonlocal num_done
                num_done += len(features)
                if progress:
                    progress(RECODING, num_done, num_rows)
                return codes.from_latent(encoder.from_features("latent", features))

            # What finds local features and regions stays: H has no part in it.
            carried: dict[str, pathlib.Path] = {
                path.name: path for path in store.encoder_folder.iterdir()
            }
            writer.recode(carried | fitted.files(), fitted.fingerprint, recoded)
    return len(rows)
