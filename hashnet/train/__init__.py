"""How the network learns, with labels and without.

The package can be called: `hashnet.train("photos/", "my.bundle", bits=48)` does what the command
`hashnet train` does.
"""

import os
import pathlib
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hashnet.train.data import LabelledImages
    from hashnet.train.supervised import Trained


class CallablePackage(types.ModuleType):
    """A package that is also the function of its name."""

    def __call__(
        self,
        data: "str | os.PathLike[str] | LabelledImages",
        bundle: str | os.PathLike[str],
        *,
        catalogue: "str | os.PathLike[str] | LabelledImages | None" = None,
        bits: int | None = None,
        recipe: str | os.PathLike[str] | None = None,
        overwrite: bool = False,
        verbose: bool = True,
        command: str = "hashnet.train",
        **settings: Any,
    ) -> "Trained":
        """Train a hash network on labelled images and write it as a bundle.

        A training that is stopped goes on where it was when the same call is made again.

        Args:
            data: str or path-like: a folder of class folders, a CSV file of paths and labels, or
                Fashion-MNIST's files (see `data.load`); or a `LabelledImages`.
            bundle: str or path-like. Folder of the bundle to be.
            catalogue: with a loss of features, pictures of the same classes that look otherwise,
                such as a shop's own: what `data` may be, or a folder of images that are named
                after their class. A batch shows one of each of its classes. Pictures of other
                classes are left out.
            bits: int, 1 to 1024. Length of the codes; 48 if None, or what the recipe says.
            recipe: str or path-like. Settings to start from: the name of a recipe that comes with
                HashNet, such as `"cifar10_48"`, or the path of a TOML file.
            overwrite: bool. Replace the bundle that is there already, at the end of the training.
            verbose: bool. Show progress on stderr.
            command: str. What the bundle remembers to have been made by.
            **settings: fields of `TrainConfig`, such as `epochs=10` or `loss="csq"`.

        Returns:
            A `Trained`: its `bundle`, its `score`, and what was left out.

        Raises:
            ArgumentError: a setting is out of its range, the data does not do, or a bundle is
                there already.
            UnknownNameError: a setting, a recipe or a value of that name is not known.
            BundleError: the bundle cannot be written.
            WeightsError: the backbone's weights cannot be had.

        Example:
            >>> import hashnet, tempfile
            >>> from hashnet.train.data import from_arrays
            >>> pictures = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype="uint8")
            >>> cats_and_dogs = from_arrays(pictures, ["cat", "dog"] * 4)
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     trained = hashnet.train(
            ...         cats_and_dogs, f"{folder}/my.bundle", bits=8, image_size=32,
            ...         backbone="tiny", weights="random", head_epochs=1, epochs=0, batch=4,
            ...         verbose=False,
            ...     )
            >>> trained.bundle.config.num_bits, trained.score.images
            (8, 8)
        """
        from hashnet.errors import ArgumentError
        from hashnet.network import bundle as bundles
        from hashnet.quiet import import_keras
        from hashnet.train import data as datasets
        from hashnet.train.config import from_recipe

        if bits is not None:
            if "num_bits" in settings:
                raise ArgumentError("A code has one length.", "bits and num_bits", "Give bits.")
            settings["num_bits"] = bits
        chosen = from_recipe(None if recipe is None else os.fsdecode(recipe), **settings)
        there = pathlib.Path(bundle)
        if not overwrite and (there / bundles.DESCRIPTION).exists():
            # Those that `hashnet attention` has trained; the new bundle has none.
            local = (there / "delf.onnx").exists()
            raise ArgumentError(
                "A training does not replace a bundle unless it is told to.",
                f"{there}, which is one" + (" with local features (delf.onnx)" if local else ""),
                "Give another name, or overwrite it (--overwrite, overwrite=True).",
            )
        labelled = data if isinstance(data, datasets.LabelledImages) else datasets.load(data)
        if catalogue is not None and not isinstance(catalogue, datasets.LabelledImages):
            catalogue = datasets.load_catalogue(catalogue)
        if catalogue is not None:
            datasets.of_catalogue(catalogue, labelled.classes, chosen)
        if chosen.learns_features:  # what no batch is made of is refused before libraries load
            datasets.check_batches(labelled, chosen.batch, chosen.images_of_class)
        import_keras()
        from hashnet.train import supervised

        return supervised.train(
            labelled, bundle, chosen, catalogue=catalogue, command=command, verbose=verbose
        )


sys.modules[__name__].__class__ = CallablePackage
