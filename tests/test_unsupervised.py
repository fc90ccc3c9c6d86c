"""A bundle fitted to photos that nobody has labelled."""

import numpy as np
import pytest

from hashnet import codes
from hashnet.encode.encoder import Encoder
from hashnet.errors import ImageError
from hashnet.train import unsupervised, unsupervised_codes


@pytest.mark.slow
def test_codes_keep_photos_of_a_kind_together_and_come_out_the_same_again(photos, tmp_path):
    paths = sorted(photos.rglob("*.png"))
    paths.insert(5, tmp_path / "missing.png")
    fits = [
        unsupervised.fit_bundle(tmp_path / name, paths, num_bits=48, seed=3) for name in ("a", "b")
    ]
    assert fits[0].bundle.origin["codes"] == "label-free"
    assert fits[0].bundle.origin["fitted_to"] == 24
    first, second = (Encoder(fitted.bundle).encode(paths) for fitted in fits)
    np.testing.assert_array_equal(first.codes, second.codes)
    np.testing.assert_array_equal(first.positions, fits[0].positions)
    np.testing.assert_allclose(first.features, fits[0].features, atol=1e-6)
    del paths[5]
    bits = codes.unpack(first.codes, 48)
    apart = (bits[:, None] != bits[None]).sum(axis=2)
    kinds = np.array([path.parent.name for path in paths])
    same = kinds[:, None] == kinds
    assert apart[same].mean() < 0.5 * apart[~same].mean()


def test_no_readable_photo_is_an_error_with_the_reason(tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    with pytest.raises(ImageError, match="broken.jpg"):
        unsupervised.fit_bundle(tmp_path / "bundle", [broken])
    assert not (tmp_path / "bundle").exists()


def test_a_large_collection_is_sampled_by_its_seed():
    sample = unsupervised.sample(50_000, 7)
    assert len(set(sample)) == unsupervised.SAMPLE and (np.diff(sample) > 0).all()
    np.testing.assert_array_equal(sample, unsupervised.sample(50_000, 7))
    assert (sample != unsupervised.sample(50_000, 8)).any()
    assert unsupervised.sample(10, 7).tolist() == list(range(10))


def test_the_shipped_prior_has_features_of_length_one():
    prior = unsupervised.prior_of("efficientnet_lite0")
    assert prior.shape == (512, 1280) and prior.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(prior, axis=1), 1, rtol=1e-5)
    assert unsupervised.prior_of("alexnet") is None


@pytest.mark.slow
def test_a_single_photo_gives_codes_that_tell_others_apart():
    prior = unsupervised.prior_of("efficientnet_lite0")
    one = prior[:1]
    weights = unsupervised_codes.fit(one, 64, prior=prior[1:])
    bits = weights.bits(prior)
    assert len(np.unique(bits, axis=0)) > 500
    assert 0.3 < bits.mean() < 0.7
    assert np.isfinite(weights.kernel).all()
