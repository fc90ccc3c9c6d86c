"""Proposals: the windows of a map that stand out, by the definition and in pictures."""

import numpy as np
import pytest

from hashnet.errors import ArgumentError, BundleError, ShapeError
from hashnet.local import delf_head, regions
from tests.stub_backbone import STUB

pytestmark = pytest.mark.keras


def slowly(scores, shape, most):
    """The definition, window by window."""
    found = []
    for part in regions.WINDOWS:
        side = min(part * max(shape), *shape)
        if side < regions.MIN_SIDE:
            continue
        rows, columns = (
            max(1, round(side / n * places)) for n, places in zip(shape, scores.shape, strict=True)
        )
        deep, wide = (max(1, round(regions.RING * n)) for n in (rows, columns))
        for top in range(scores.shape[0] - rows + 1):
            for left in range(scores.shape[1] - columns + 1):
                bottom, right = top + rows, left + columns
                ring = [
                    scores[y, x]
                    for y in range(max(0, top - deep), min(scores.shape[0], bottom + deep))
                    for x in range(max(0, left - wide), min(scores.shape[1], right + wide))
                    if not (top <= y < bottom and left <= x < right)
                ]
                contrast = scores[top:bottom, left:right].mean() - np.sum(ring) / max(len(ring), 1)
                found.append((-round(contrast, 9), len(found), (top, left, bottom, right)))
    kept = []
    for _, _, box in sorted(found):
        if len(kept) < most and all(overlap(box, other) <= regions.OVERLAP for other in kept):
            kept.append(box)
    scale = np.array([*np.divide(shape, scores.shape)] * 2)
    return [np.rint(box * scale).astype(int).tolist() for box in kept]


def overlap(box, other):
    cells = [
        {(y, x) for y in range(top, bottom) for x in range(left, right)}
        for top, left, bottom, right in (box, other)
    ]
    return len(cells[0] & cells[1]) / len(cells[0] | cells[1])


@pytest.mark.parametrize("shape", [(640, 640), (300, 500), (500, 300), (256, 257), (100, 200)])
@pytest.mark.parametrize("most", [1, 5, 64])
def test_windows_follow_the_definition(shape, most):
    rng = np.random.default_rng(most)
    for scores in (rng.normal(size=(16, 16)), rng.integers(0, 2, (12, 16)).astype(float)):
        found = regions.best_windows(scores, shape, most).tolist()
        assert found == slowly(scores, shape, most) and len(found) <= most
        assert found


def test_regions_share_three_tenths_of_what_they_cover_at_most():
    first, far = [0, 0, 10, 13], [0, 13, 10, 26]
    shifted = {
        6: [0, 6, 10, 19],  # 70 of 190 cells
        7: [0, 7, 10, 20],  # 60 of 200: just three tenths
        8: [0, 8, 10, 21],  # 50 of 210
    }
    for offset, other in shifted.items():
        kept = regions._apart(np.array([first, other]), 3).tolist()
        assert kept == ([first, other] if offset >= 7 else [first])
    # What overlaps one that was dropped is not dropped for that.
    assert regions._apart(np.array([first, shifted[6], far]), 3).tolist() == [first, far]
    assert regions._apart(np.array([first, first, far]), 1).tolist() == [first]


def test_fewer_regions_are_the_first_of_more():
    scores = np.random.default_rng(0).random((32, 32))
    many = regions.best_windows(scores, (480, 640), 16)
    assert len(many) == 16
    for most in (1, 4, 15):
        assert regions.best_windows(scores, (480, 640), most).tolist() == many[:most].tolist()


def test_regions_lie_inside_and_small_or_narrow_images_have_none():
    scores = np.random.default_rng(0).random((32, 32))
    for shape in [(97, 1000), (4000, 3000), (96, 96), (1000, 126)]:
        found = regions.best_windows(scores, shape, 64)
        assert len(found) and (found[:, :2] >= 0).all() and (found[:, 2:] <= shape).all()
        assert (found[:, 2:] - found[:, :2] >= regions.MIN_SIDE * 0.8).all()
    for shape in [(1, 1), (95, 95), (1, 10_000), (10_000, 31)]:
        assert regions.best_windows(scores, shape, 64).shape == (0, 4)


def test_a_map_without_contrast_or_numbers_is_no_trouble():
    for value in (0, np.nan, np.inf, -np.inf):
        found = regions.best_windows(np.full((32, 32), value), (640, 640), 8)
        assert found.shape == (8, 4)


def test_what_is_no_map_is_refused():
    for scores in (np.zeros(4), np.zeros((0, 3)), np.zeros((2, 2, 2))):
        with pytest.raises(ShapeError, match="rows, columns"):
            regions.best_windows(scores, (100, 100), 1)
    with pytest.raises(ArgumentError, match="most=0"):
        regions.best_windows(np.zeros((4, 4)), (100, 100), 0)


@pytest.fixture(scope="module")
def tiny():
    """A network whose map, of stride 2, is the brightness of its image."""
    model = STUB.build(32, None)
    kernel = np.zeros((3, 3, 3, 8), np.float32)
    kernel[1, 1, :, 0] = 1
    model.get_layer("conv").set_weights([kernel])
    return model


@pytest.fixture(scope="module", params=["activation_norm", "attention"])
def file(request, tiny, tmp_path_factory):
    head = delf_head.Head.untrained(8)
    if request.param == "attention":
        ones = (np.eye(8, dtype=np.float32), np.zeros(8, np.float32), np.ones(8, np.float32))
        head = delf_head.Head(head.mean, head.components, (*ones, np.float32(0)))
    path = tmp_path_factory.mktemp("regions") / f"{request.param}.onnx"
    regions.export(path, tiny, head)
    return path


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_an_exported_network_finds_what_is_bright(file, runtime):
    if runtime == "openvino":
        pytest.importorskip("openvino")
    proposer = regions.Proposer.open(file, runtime)
    image = np.zeros((400, 600, 3), np.uint8)
    image[240:320, 50:140] = 255
    [box] = proposer.propose(image, 1)
    inside = np.minimum(box[2:], (320, 140)) - np.maximum(box[:2], (240, 50))
    assert (inside > 0).all() and inside.prod() > 0.7 * 80 * 90
    with pytest.raises(ShapeError):
        proposer.propose(image[..., 0], 1)


def test_other_files_are_refused(file, bundle_folder, tmp_path):
    with pytest.raises(BundleError, match="No such file"):
        regions.Proposer.open(tmp_path / "none.onnx")
    with pytest.raises(BundleError, match="hashnet.local.regions.export"):
        regions.Proposer.open(bundle_folder / "encoder.onnx")
    (tmp_path / "broken.onnx").write_bytes(file.read_bytes()[:-100])
    with pytest.raises(BundleError):
        regions.Proposer.open(tmp_path / "broken.onnx")
    with pytest.raises(ArgumentError, match="any size"):
        regions.export(tmp_path / "alexnet.onnx", "alexnet")
