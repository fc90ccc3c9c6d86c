"""Codes that follow their library: fitted again, without labels, to what an index holds now."""

import os
import pathlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from hashnet import codes, files
from hashnet.encode.encoder import Encoder
from hashnet.errors import ArgumentError
from hashnet.network import bundle as bundles
from hashnet.network import onnx_graph, pretrained
from hashnet.retrieval import vocabulary
from hashnet.retrieval.words import ways
from hashnet.train import unsupervised

RECODING = "computing codes"
# Of the codes before, these were measured: bits that another precision flips, and mAP.
_OF_CODES_BEFORE = ("precision", "score")


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
    content = bundle.float32_encoder() if bundle.precision in ("float32", "int8") else None
    if not bundle.fits_codes or content is None:
        raise ArgumentError(
            "Codes without labels, in float32 or int8, are fitted again to photos.",
            f"{bundle.precision} codes of {bundle.origin.get('command', 'another network')}",
            "Make another index: hashnet index NEW IMAGES.",
        )
    network, config = onnx_graph.parsed(content, bundle.folder), bundle.config
    if config.scores_from == "latent":  # F8 knew its classes by the codes of before
        network = onnx_graph.without_scores(network)
        config = replace(config, classes=(), scores_from="none")
    with store.writer() as writer, store.snapshot() as snapshot:
        rows = snapshot.rows_beginning_with("")  # of all images
        if not len(rows):
            raise ArgumentError("Codes are fitted to at least one image.", str(store.folder))
        chosen = rows[unsupervised.sample(len(rows), seed)]
        features = snapshot.features(chosen).astype(np.float32)
        num_rows = snapshot.num_items + snapshot.num_regions
        with files.scratch_folder() as scratch:
            fitted = unsupervised.fit_hash_layer(
                os.path.join(scratch, "float32"),
                network,
                config,
                features,
                seed=seed,
                # Of bits that another precision flips, those of the codes before were counted.
                origin={
                    name: noted
                    for name, noted in bundle.origin.items()
                    if name not in _OF_CODES_BEFORE
                },
                text=bundle.text_part(),
                progress=progress,
            )
            if bundle.precision == "int8":
                fitted = _with_hash_layer_of(fitted, bundle, os.path.join(scratch, "int8"))
            encoder, num_done = Encoder(fitted), 0

            def recoded(features: np.ndarray) -> np.ndarray:
                nonlocal num_done
                num_done += len(features)
                if progress:
                    progress(RECODING, num_done, num_rows)
                return codes.from_latent(encoder.from_features("latent", features))

            if snapshot.keeps_words and snapshot.codebook is not None:
                vocabulary.fit(
                    writer,
                    snapshot,
                    seed=seed,
                    num_threads=encoder.num_threads,
                    progress=partial(progress, vocabulary.LISTING) if progress else None,
                )
            # What finds local features and regions stays: H has no part in it.
            carried: dict[str, pathlib.Path] = {
                path.name: path for path in store.encoder_folder.iterdir()
            }
            writer.recode(carried | fitted.files(), fitted.fingerprint, recoded)
        with store.reopened().snapshot() as recoded_snapshot:
            ways.settle(recoded_snapshot, anew=True)
    return len(rows)


def _with_hash_layer_of(
    fitted: bundles.Bundle, bundle: bundles.Bundle, folder: str
) -> bundles.Bundle:
    """The network of int8 with another H, which is float32 in it, too, and follows the feature."""
    network, other = (
        onnx_graph.parsed(one.encoder_bytes(), one.encoder_file) for one in (bundle, fitted)
    )
    if not fitted.config.classes:
        network = onnx_graph.without_scores(network)
    network = pretrained.with_hash_layer(network, *onnx_graph.hash_layer(other))
    encoder = onnx_graph.content(network)
    return bundles.save_precision(folder, fitted, encoder, bundle.precision, origin=fitted.origin)
