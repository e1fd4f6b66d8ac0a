"""Step-level checkpointing with exact resume.

Rerun the same script after a crash or preemption, and it ends with the same weights as an uninterrupted run.
"""

import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_distill import _compat
from keras_distill.callbacks.callback_states import CallbackStates
from keras_distill.callbacks.data_order import DataOrder
from keras_distill.callbacks.preemption import EXIT_PREEMPTED, PreemptionHandler
from keras_distill.distribution import replicas, workers
from keras_distill.saving import checkpoints, runs
from keras_distill.types import Structure
from keras_distill.utils.arguments import check_integer


class Backup(keras.callbacks.Callback):
    """Callback for fault-tolerant training: step-level checkpoints with exact resume.

    Rerun the same script after a crash or preemption, and the training ends with the same weights as an uninterrupted
    run: bit for bit on one worker, up to rounding on several. `fit` returns the history of all epochs.

    A checkpoint is written after every epoch, and after every `every` steps of an epoch. It contains the weights of
    models, heads and losses, the optimizer, random states, the weights of an `EMATeacher`, the metrics of the epoch so
    far, and the history. Any built `keras.Model` can be trained. Layers that draw random numbers must use a
    `keras.random.SeedGenerator`, as Keras' own layers do.

    One process at a time trains in a folder. The data must come in the same order again. `batches` and `epochs` make
    datasets whose order is a function of the seed and the epoch, and resume an interrupted epoch at its next batch. Any
    other dataset must have the same order in every epoch; an interrupted epoch then skips the batches that were used.

    On SIGTERM, which preemptible instances send before they stop, the current step or validation is finished, a
    checkpoint is written, and the process exits with status 75 (`EXIT_PREEMPTED`). `fit` must run in the main thread
    for this.

    With several workers (`MultiWorkerMirroredStrategy`), each worker creates a `Backup` of the same folder, which all
    workers must be able to read. The chief writes. A signal to any worker stops all workers after the same step.
    Workers of different trainings raise an error before the first step. Create the `Backup` within the strategy's scope
    and before the models, so that settings are compared first: TensorFlow waits forever when workers create variables
    of different shapes.

    A finished training deletes its checkpoints. With `keep=True` they remain, and rerunning the script restores the
    finished training without another step. Nothing is lost then if the process dies before it saves the model; call
    `delete` after that.

    Args:
        folder: Folder of the checkpoints, local or on cloud storage. Use one for each training.
        every: Number of steps of an epoch between two checkpoints, >= 1. 100 to 1000 is typical. Defaults to None, a
            checkpoint after each epoch only.
        seed: Integer >= 0 that determines the order of `batches` and `epochs`. Defaults to 0.
        settings: `{name: JSON value}` of everything else that the training depends on, such as
            `{"temperature": 4.0}`. A run with other settings cannot resume from the checkpoint. Defaults to None.
        callbacks: Callbacks such as `EarlyStopping` whose numbers, strings and arrays are part of the checkpoint,
            except the arguments of their constructors. Pass them to `fit`, too. All other callbacks start from their
            initial state. Defaults to none.
        keep: Whether to keep the checkpoints of a finished training. Defaults to False.

    Raises:
        ValueError: For arguments out of range, and for workers whose settings, seeds or versions differ. At the start
            of training also for a model that is not built; for a checkpoint of another model, seed, data or settings,
            or of other versions of Keras, TensorFlow or keras_distill; and for a folder in which no checkpoint is
            intact. A single corrupted or incomplete checkpoint causes a warning, and the previous one is used.
        RuntimeError: At the start of training, if another process trains in the folder.

    Example:
    >>> backup = Backup("checkpoints", every=500)
    >>> data = backup.batches((x, y), batch_size=8)
    >>> distiller = Distiller(student=student, teacher=teacher, terms=[Term(KLDivergence())])
    >>> distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    >>> history = distiller.fit(data, epochs=1, verbose=0, callbacks=[backup])
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        every: int | None = None,
        seed: int = 0,
        settings: dict[str, Any] | None = None,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        keep: bool = False,
    ):
        super().__init__()
        self.folder = os.fspath(folder)
        self.every = check_integer(every, "every", optional=True)
        self.seed = check_integer(seed, "seed", at_least=0)
        self.settings = json.loads(json.dumps(settings or {}))
        self.callbacks = list(callbacks)
        self.keep = keep
        # Compared already here: workers that create models of different shapes would wait for one another forever.
        run = {"versions": runs.versions(), "seed": self.seed, "settings": self.settings}
        runs.check_workers(tf.distribute.get_strategy(), run)
        self._order = DataOrder(self.seed)
        self._preemption = PreemptionHandler()

    def epochs(self, make: Callable[[tf.Tensor], tf.data.Dataset]) -> tf.data.Dataset:
        """Return a dataset for `fit` whose order differs in each epoch, but is the same in each run.

        Args:
            make: Function that returns the batched `tf.data.Dataset` of one epoch. Its argument is a seed, a scalar
                int64 tensor that is a function of the run's seed and the epoch. The dataset must be finite, and random
                by this seed only.

        Returns:
            A dataset of one epoch. Pass it to `fit` without `steps_per_epoch`. Several workers share its batches,
            regardless of the files that it reads.

        Raises:
            ValueError: If the dataset of an epoch is infinite.

        Example:
        >>> backup = Backup("checkpoints")
        >>> source = tf.data.Dataset.from_tensor_slices((x, y))
        >>> data = backup.epochs(lambda seed: source.shuffle(10_000, seed=seed).batch(8))
        """
        return self._order.epochs(make)

    def batches(self, data: Structure, batch_size: int, shuffle: bool = True) -> tf.data.Dataset:
        """Return a dataset for `fit` of arrays in memory, in a different order for each epoch.

        Args:
            data: Structure of arrays of equal length: `x`, `(x, y)` or `(x, y, sample_weight)`. `x` may be nested, and
                may come from `with_activations` and `with_index`.
            batch_size: Examples per batch, >= 1. 32 to 256 is typical. The last batch of an epoch may be smaller.
            shuffle: Whether to shuffle the examples in every epoch. Defaults to True.

        Returns:
            A dataset of one epoch, as from `epochs`. An interrupted epoch resumes without reading earlier batches.

        Raises:
            ValueError: If `batch_size` is not an integer >= 1, or if the arrays differ in length.
        """
        return self._order.batches(data, check_integer(batch_size, "batch_size"), shuffle)

    def delete(self) -> None:
        """Delete the checkpoints, so that the next training in this folder starts from scratch.

        Only the chief worker deletes them.
        """
        if workers.is_chief(tf.distribute.get_strategy() if self.model is None else self.model.distribute_strategy):
            checkpoints.remove(self.folder)
            runs.unlock(self.folder)

    def on_train_begin(self, logs=None):
        model = self.model
        if not model.built:
            raise ValueError(
                f"`Backup` requires a built model. Call '{model.name}' on a batch of inputs, or add a `keras.Input` to "
                "it, before `fit`."
            )
        self._strategy = model.distribute_strategy
        if not model.optimizer.built:
            with self._strategy.scope():
                model.optimizer.build(model.trainable_variables)
        self._order.check_steps(self.params["steps"])
        data = self._order.signature or {"steps": self.params["steps"]}
        self._run = runs.describe(model, seed=self.seed, settings=self.settings, data=data)
        self._checkpoint, self._number = runs.lock_checkpoint(self.folder, self._strategy, self._run)
        self._started = False
        self._order.reset()
        self._callback_arrays = {}
        if self._checkpoint is not None:
            self._restore()
        self._preemption.install(model)

    def on_epoch_begin(self, epoch, logs=None):
        if self._started:
            # Written here and not at the end of the previous epoch: only now all callbacks, such as History, have
            # processed that end.
            self._write(epoch, 0)
            if self._preempted():
                self._exit()
        # Number of steps of this epoch that an earlier process made.
        self._steps_done = 0 if self._started or self._checkpoint is None else self._checkpoint["step"]
        self._restore_callbacks()
        # The last of these steps is repeated; see `_skip_steps`.
        self._order.start = (epoch, max(self._steps_done - self.model.steps_per_execution, 0))

    def on_train_batch_end(self, batch, logs=None):
        step, per_execution = batch + 1, self.model.steps_per_execution
        if step <= self._steps_done:
            return
        self._order.check_pass()
        preempted = self._preempted()
        if preempted or (self.every is not None and step // self.every > (step - per_execution) // self.every):
            self._write(self._order.start[0], step, logs)
        if preempted:
            self._exit()

    def on_train_end(self, logs=None):
        _compat.set_initial_epoch(self.model, None)
        preempted = self._preempted()
        if self._started and (self.keep or preempted):
            self._write(self._order.start[0] + 1, 0, stopped=self.model.stop_training)
        self._restore_callbacks()
        if preempted:
            self._exit()
        self._preemption.uninstall()
        if not self.keep:
            self.delete()
        runs.unlock(self.folder)

    def _restore(self):
        """Restore variables and the position in the training."""
        arrays = checkpoints.read(self.folder, self._number)
        self._callback_arrays = {name: array for name, array in arrays.items() if name.startswith("callback/")}
        self._assign(runs.variables(self.model), arrays)
        epoch = self.params["epochs"] if self._checkpoint["stopped"] else self._checkpoint["epoch"]
        _compat.set_initial_epoch(self.model, epoch)
        if self._checkpoint["step"]:
            self._skip_steps(self._checkpoint["step"], arrays)

    def _skip_steps(self, steps, arrays):
        """Replace the training function until Keras has counted the steps of the epoch that were made before.

        Keras cannot start an epoch in the middle.
        """
        model, train, per_execution = self.model, self.model.train_function, self.model.steps_per_execution
        remaining = steps // per_execution

        def skip_step(iterator):
            nonlocal remaining
            remaining -= 1
            if remaining and self._order.signature is None:
                for _ in range(per_execution):
                    next(iterator)
            if not remaining:
                # Keras creates some variables, such as those of metrics, in the first step of a process. So the last
                # step is repeated, and all variables then get the values that they had after it.
                model.train_function = train
                train(iterator)
                self._order.check_pass()
                self._assign({**runs.variables(model), **runs.metrics(model)}, arrays)
            return self._checkpoint["logs"]

        model.train_function = skip_step

    def _restore_callbacks(self):
        """Restore the history and the state of callbacks, once in a training."""
        if self._started:
            return
        self._started = True
        self._states = CallbackStates(self.callbacks)
        if self._checkpoint is None:
            return
        history = self.model.history
        history.history.clear()
        history.history.update(self._checkpoint["history"])
        history.epoch[:] = self._checkpoint["epochs"]
        self._states.restore(self._checkpoint["callbacks"], self._callback_arrays)

    def _assign(self, variables, arrays):
        for (name, variable), stored in zip(variables.items(), arrays):
            if runs.strip_numbers(stored) != runs.strip_numbers(name):
                raise ValueError(f"The checkpoint in '{self.folder}' has '{stored}' in place of '{name}'.")
            replicas.assign(self._strategy, variable, arrays[stored])

    def _write(self, epoch, step, logs=None, stopped=False):
        """Write a checkpoint. Collective: every worker must call it, because reading a metric sums over the workers."""
        variables = runs.variables(self.model)
        if step:
            variables |= runs.metrics(self.model)
        arrays = {name: keras.ops.convert_to_numpy(variable) for name, variable in variables.items()}
        if not workers.is_chief(self._strategy):
            return
        states, state_arrays = self._states.capture()
        metadata = {
            "run": self._run,
            "epoch": epoch,
            "step": step,
            "stopped": stopped,
            "logs": logs or {},
            "history": self.model.history.history,
            "epochs": self.model.history.epoch,
            "callbacks": states,
        }
        self._number = checkpoints.write(self.folder, arrays | state_arrays, metadata, keep=[self._number])

    def _preempted(self):
        """Return whether any worker got SIGTERM. Collective: every worker must call it.

        All workers must stop after the same step. A file in the shared folder could reach a worker too late, which
        would then wait in its next step for workers that have stopped.
        """
        return workers.any_worker(self._strategy, self._preemption.requested)

    def _exit(self):
        self._preemption.uninstall()
        _compat.set_initial_epoch(self.model, None)
        runs.unlock(self.folder)
        message = f"Preempted: checkpoint written to '{self.folder}'. Run the same command again to resume."
        print(message, file=sys.stderr, flush=True)
        raise SystemExit(EXIT_PREEMPTED)
