"""SIFT by OpenCV, as RootSIFT: local features for flat, printed, well-textured things.

Lowe, "Distinctive image features from scale-invariant keypoints", 2004; the root after
Arandjelovic and Zisserman, "Three things everyone should know to improve object retrieval",
2012, section 2.
"""

import numpy as np

from hashnet import images
from hashnet.errors import ShapeError
from hashnet.local.features import MAX_FEATURES, LocalFeatures, opencv

# Larger images are made smaller first: what is seen only beyond this is mostly noise.
MAX_SIDE = 1024


class Sift:
    """Extracts RootSIFT features, the strongest by response first.

    Several features may have one place: SIFT gives a spot one for each strong orientation.

    Example:
        >>> image = np.zeros((80, 80, 3), np.uint8)
        >>> image[30:50, 20:60] = 255
        >>> features = Sift().extract(image)
        >>> bool(len(features) > 0 and np.allclose(np.linalg.norm(features.descriptors, axis=1), 1))
        True
    """

    name = "sift"
    descriptor_dim = 128

    def __init__(self) -> None:
        self._cv2 = opencv()

    def extract(self, image: np.ndarray) -> LocalFeatures:
        """Local features of an image.

        Args:
            image: uint8 `(height, width, 3)`.

        Returns:
            `LocalFeatures`, 0 to 1000 of them.

        Raises:
            ShapeError: `image` is no such array.
        """
        if getattr(image, "dtype", None) != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ShapeError(
                "An image is a uint8 array of shape (height, width, 3).",
                f"{getattr(image, 'dtype', type(image))} {np.shape(image)}",
            )
        shrink = min(1.0, MAX_SIDE / max(image.shape[:2]))
        if shrink < 1:
            height, width = (max(1, round(side * shrink)) for side in image.shape[:2])
            image = images.resize(image, (height, width))
        grey = self._cv2.cvtColor(np.ascontiguousarray(image), self._cv2.COLOR_RGB2GRAY)
        # A detector holds state while it runs, and a service runs several at once.
        keypoints, found = self._cv2.SIFT_create(nfeatures=MAX_FEATURES).detectAndCompute(
            grey, None
        )
        if not keypoints:
            none = np.zeros((0, 2), np.float32)
            return LocalFeatures(none, np.zeros((0, self.descriptor_dim), np.float32), none[:, 0])
        xy = np.array([keypoint.pt for keypoint in keypoints], np.float32)
        scores = np.array([keypoint.response for keypoint in keypoints], np.float32)
        sums = found.sum(axis=1)
        order = np.argsort(-scores, kind="stable")
        order = order[sums[order] > 0][:MAX_FEATURES]
        # The half is the centre of a pixel, which moves when pixels change their size.
        yx = (xy[order, ::-1] + 0.5) / np.float32(shrink) - 0.5
        return LocalFeatures(
            yx.astype(np.float32), np.sqrt(found[order] / sums[order, None]), scores[order]
        )
