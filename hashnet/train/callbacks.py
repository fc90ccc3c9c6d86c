"""What happens after every epoch: measure, remember, and perhaps stop."""

import csv
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from hashnet import codes, metrics

if TYPE_CHECKING:
    from hashnet.train.state import RunState


class AfterEpoch(keras.callbacks.Callback):
    """Measures on validation images, stops early, and saves the state, in this order.

    It measures codes where the model gives them, as `u`, and else features.

    Args:
        state: a `RunState`.
        validation: (inputs, labels) or None. Each image is a query against all the others; the
            labels are as `metrics.evaluate_codes` takes them.
        patience: int; 0 to never stop early.
        logs: pathlib.Path of the folder for `log.csv`, or None.
        say: function that takes a line for the user.
    """

    def __init__(
        self,
        state: "RunState",
        validation: tuple[np.ndarray, np.ndarray] | None,
        patience: int,
        logs: pathlib.Path | None,
        say: Callable[[str], None],
    ) -> None:
        super().__init__()
        self.state, self.validation, self.patience = state, validation, patience
        self.logs, self.say = logs, say

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """What Keras calls after each epoch.

        Args:
            epoch: int, from 0 on.
            logs: dict with `loss`, a float.
        """
        state = self.state
        row = {"phase": state.phase, "epoch": epoch + 1, "loss": float(logs["loss"])}
        if self.validation is not None:
            row["validation_map"] = self._measure(*self.validation)
        self.say(", ".join(f"{name} {round(value, 4)}" for name, value in row.items()))
        state.history.append(row)
        state.epoch = epoch + 1
        if self.patience:
            self._consider_stopping(row["validation_map"])
        if self.logs:
            _write_csv(self.logs / "log.csv", state.history)
        state.save(self.model)

    def _measure(self, inputs: np.ndarray, labels: np.ndarray) -> float:
        outputs = self.model.predict(inputs, batch_size=64, verbose=0)
        if "feature" in outputs:
            features = np.asarray(outputs["feature"])
            by_feature = metrics.evaluate_features(
                features, labels, features, labels, exclude_self=True
            )
            return float(by_feature.map_all.expected)
        u = outputs["u"]
        code = codes.pack(np.asarray(u) >= 0)
        result = metrics.evaluate_codes(
            code, labels, code, labels, num_bits=u.shape[1], exclude_self=True
        )
        return float(result.map_all.expected)

    def _consider_stopping(self, score: float) -> None:
        state = self.state
        if score > state.best:
            state.best, state.waited = score, 0
            state.keep_best(self.model)
            return
        state.waited += 1
        if state.waited >= self.patience:
            state.ended = True
            self.say(f"no better mAP for {state.waited} epochs: stopped")


def _write_csv(path: pathlib.Path, history: list[dict[str, Any]]) -> None:
    """Write the whole log anew, so that a resumed run leaves no epoch twice or out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = ["phase", "epoch", "loss", "validation_map"]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(history)
