"""Progress of an experiment: one line per training, with the time left."""

import time
from typing import Any

import keras

from keras_distill.utils.formatting import duration
from keras_distill.utils.progress import LOG_INTERVAL, is_rewritable


class Progress:
    """Prints one line per training, with score, agreement and time left.

    On a terminal the line is rewritten after every epoch.
    """

    def __init__(self):
        self.begin(0)
        self._width = 0

    def begin(self, steps: int, name: str = "") -> None:
        """Begin a part of the experiment. The time left is that of the part, as far as it is measured.

        Args:
            steps: Number of training steps of the part.
            name: Name of the part, such as " for the teacher", after the time left. Defaults to "".
        """
        self._remaining, self._name = steps, name
        self._done = 0
        self._seconds = 0.0

    def skip(self, steps: int) -> None:
        """Count the steps of a training that an earlier run finished.

        Args:
            steps: Number of steps.
        """
        self._remaining -= steps

    def epochs(self, title: str, steps: int) -> keras.callbacks.Callback:
        """Return a callback that shows the epochs of one training.

        Args:
            title: Start of the line, such as "distilled, seed 1 of 5".
            steps: Number of steps of the training.
        """
        return _Epochs(self, title, steps)

    def finish(self, text: str) -> None:
        """Print the line of a finished training.

        Args:
            text: The line, such as "distilled, seed 1 of 5: accuracy 97.60 %".
        """
        self._print(text + self.left())
        print(flush=True)
        self._width = 0

    def left(self) -> str:
        """Return the time left, such as "; 2 min 3 s left". Empty before the first step and after the last."""
        if not self._done or self._remaining <= 0:
            return ""
        return f"; {duration(self._remaining * self._seconds / self._done)} left{self._name}"

    def update(self, steps: int, seconds: float) -> None:
        """Count training steps.

        Args:
            steps: Number of steps.
            seconds: Their duration.
        """
        self._remaining -= steps
        self._done += steps
        self._seconds += seconds

    def show(self, text: str) -> None:
        """Rewrite the current line; on anything but a terminal, print a line.

        Args:
            text: The line.
        """
        self._print(text + self.left())
        if not is_rewritable():
            print(flush=True)

    def _print(self, text):
        rewrite = "\r" if is_rewritable() else ""
        print(rewrite + text.ljust(self._width if rewrite else 0), end="", flush=True)
        self._width = len(text)


class _Epochs(keras.callbacks.Callback):
    def __init__(self, progress, title, steps):
        super().__init__()
        self._progress, self._title, self._steps = progress, title, steps

    def on_train_begin(self, logs: dict[str, Any] | None = None):
        self._shown = self._started = time.time()

    def on_epoch_begin(self, epoch, logs=None):
        self._started = time.time()

    def on_epoch_end(self, epoch, logs=None):
        epochs = self.params["epochs"]
        self._progress.update(self._steps // epochs, time.time() - self._started)
        if is_rewritable() or time.time() - self._shown > LOG_INTERVAL:
            self._shown = time.time()
            shown = ", ".join(f"{name} {value:.4g}" for name, value in _main(logs or {}))
            self._progress.show(f"{self._title}: epoch {epoch + 1} of {epochs}, {shown}")


def _main(logs):
    """Return the total loss and the metrics, without the losses of single terms."""
    return [(name, value) for name, value in logs.items() if name == "loss" or not name.endswith("loss")]
