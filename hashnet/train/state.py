"""What an interrupted run needs to go on as if nothing had happened."""

import json
import pathlib
import shutil
import time
import zipfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from keras import ops

from hashnet import files
from hashnet.errors import ArgumentError, BundleError

if TYPE_CHECKING:
    import keras

STATE = "state.npz"


class RunState:
    """Where a run stands, in memory, and on disk after every epoch.

    Args:
        folder: pathlib.Path, made if it is missing; holds one file.
        identity: str. Of the settings and the data: a state of another run is refused.
        began: float. When this call began, by `time.monotonic`.

    Attributes:
        phase: int, 1 or 2.
        epoch: int. Epochs of this phase that are done.
        ended: bool. Whether this phase is over.
        history: list of dict, one for each epoch of both phases.
        best: float. Best mAP of this phase.
        waited: int. Epochs of this phase since the best.
        spent: float. Seconds that earlier calls put into epochs that count.
    """

    def __init__(self, folder: pathlib.Path, identity: str, began: float) -> None:
        self.folder = pathlib.Path(folder)
        self.identity = identity
        self.history: list[dict[str, Any]] = []
        self.spent, self._began = 0.0, began
        self.begin(1)
        self.folder.mkdir(parents=True, exist_ok=True)
        if (self.folder / STATE).exists():
            self._read()

    def begin(self, phase: int) -> None:
        """Enter a phase at its first epoch.

        Args:
            phase: int, 1 or 2.
        """
        self.phase, self.epoch, self.ended = phase, 0, False
        self.best, self.waited = -1.0, 0
        self._arrays: dict[str, np.ndarray] = {}

    @property
    def seconds(self) -> float:
        """float. What the run has taken so far, earlier calls included."""
        return self.spent + time.monotonic() - self._began

    def save(self, model: "keras.Model") -> None:
        """Write all that counts: weights, optimizer, random states, epoch and history.

        Args:
            model: `keras.Model`, compiled, so that it has an optimizer.

        Raises:
            BundleError: the disk is full, or the like; the state of the epoch before stays.
        """
        self._arrays |= _numbered("now", _variables(model))
        about = {
            "identity": self.identity,
            "phase": self.phase,
            "epoch": self.epoch,
            "ended": self.ended,
            "best": self.best,
            "waited": self.waited,
            "history": self.history,
            "spent": self.seconds,
        }
        path = self.folder / STATE
        try:
            files.remove_leftovers(path)
            arrays: dict[str, Any] = {"about": json.dumps(about), **self._arrays}
            with files.whole_file(path) as file:
                np.savez(file, **arrays)
        except OSError as error:
            raise BundleError(
                "The state of the training is written after every epoch.",
                f"{path}: {error.strerror or error}",
                "Make room and give the same command again: it goes on after the last whole epoch.",
            ) from error

    def keep_best(self, model: "keras.Model") -> None:
        """Remember the model's weights as the best ones.

        Args:
            model: `keras.Model`.
        """
        self._arrays |= _numbered("best", model.variables)

    def restore(self, model: "keras.Model") -> None:
        """Put the model, its optimizer and all random states back to where they were saved.

        Args:
            model: `keras.Model`, compiled, of the layers that it had then.
        """
        _assign(_variables(model), self._arrays, "now")

    def restore_best(self, model: "keras.Model") -> None:
        """Put the model back to its best epoch.

        Args:
            model: `keras.Model`, of the layers that it had then.
        """
        _assign(model.variables, self._arrays, "best")

    def remove(self) -> None:
        """The run is over: nothing of it needs to go on."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read(self) -> None:
        path = self.folder / STATE
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
                arrays = dict(stored)
            about = json.loads(str(arrays.pop("about")))
            identity = about.pop("identity")
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise BundleError(
                "The state of an unfinished training must be whole.",
                f"{path}: {error}",
                f"Delete the folder {self.folder} to begin again.",
            ) from error
        if identity != self.identity:
            raise ArgumentError(
                "An unfinished training goes on with the same settings and images only.",
                f"another training in {self.folder}",
                "Give the same command as then, or delete that folder to begin again.",
            )
        self._arrays = arrays
        for name, value in about.items():
            setattr(self, name, value)


def _variables(model: "keras.Model") -> "list[keras.Variable]":
    return [*model.variables, *model.optimizer.variables]


def _numbered(prefix: str, variables: "Sequence[keras.Variable]") -> dict[str, np.ndarray]:
    return {
        f"{prefix}{place:05}": ops.convert_to_numpy(variable)
        for place, variable in enumerate(variables)
    }


def _assign(
    variables: "Sequence[keras.Variable]", arrays: dict[str, np.ndarray], prefix: str
) -> None:
    for place, variable in enumerate(variables):
        variable.assign(arrays[f"{prefix}{place:05}"])
