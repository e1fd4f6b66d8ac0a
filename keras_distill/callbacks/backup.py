"""Runs that may be killed: the same script, started again, ends with the weights of an unbroken run."""

import json
import os
import signal
import sys
import threading

import keras
import numpy as np
import tensorflow as tf

from keras_distill.distribution import replicas, workers
from keras_distill.saving import checkpoints, runs

# EX_TEMPFAIL of sysexits.h: whoever sees it starts the same command again.
EXIT_PREEMPTED = 75


class Backup(keras.callbacks.Callback):
    """Keeps the state of a training in a folder, so that a run that was killed goes on when it is started again.

    ```python
    backup = Backup("runs/backup", every=500)
    data = backup.batches((x, y), batch_size=128)
    distiller.fit(data, epochs=10, validation_data=(x_test, y_test), callbacks=[backup])
    student.save("student.keras")
    ```

    It writes after every epoch, and after every `every` steps of one: weights of models, heads and losses, the
    optimizer, random states, an `EMATeacher`'s copy, the metrics of the epoch so far, and the history. The same script,
    started again, goes on after the last step that was written, within an epoch too, and ends with the same weights:
    bit for bit on one worker, rounded on several. `fit` returns the history of all epochs. It serves any built
    `keras.Model`; what draws random numbers needs a `keras.random.SeedGenerator`, as Keras' layers have.

    The data must come in the same order again. `batches` and `epochs` make them a function of the seed and the number
    of the epoch, and begin an interrupted epoch where it stood. With other data an interrupted epoch is read from its
    start, and what was learnt is left out; they must then come in the same order in every epoch.

    On SIGTERM, the notice that comes before a machine is taken away, the step is finished, its state written, and the
    process exits with the code 75 (`keras_distill.callbacks.backup.EXIT_PREEMPTED`). A validation is finished first. `fit` has to run
    in the main thread for it.

    Of several workers (`MultiWorkerMirroredStrategy`) each makes a `Backup` of the same folder, which all must reach;
    the first one writes. A notice to any one stops all after the same step. They are told before the first step if
    they do not train alike; and, where it is made within the strategy's scope, at once if their settings or versions
    differ. Make it before the models then: if those have other shapes, TensorFlow waits for ever when it makes them.

    A finished training deletes its backup. With `keep` it stays, and the script, started again, finds the training
    finished: so that nothing is lost if the process dies before it saved the model. `delete` is for after that.

    Args:
        folder: Where. One for each training.
        every: How many steps of an epoch to write after, or None for whole epochs only.
        seed: An integer, 0 or more; the order of `batches` and `epochs`. Defaults to 0.
        settings: `{name: value}`, as JSON has it, of what else the run depends on; a backup of others is refused.
        callbacks: Callbacks whose numbers, texts and arrays are kept with the rest, such as `EarlyStopping`; but not
            the arguments that they were made with. They are to be given to `fit`, too. Others begin anew.
        keep: Whether the backup of a finished training stays. Defaults to False.

    Raises:
        ValueError: For arguments that are none of these, and workers whose settings, seeds or versions differ. When
            training begins, for a model that is not built; a backup of another model, seed, data or
            settings, or of other versions of Keras, TensorFlow or keras_distill; files of which none is whole; workers
            that differ in any of these. A file that is damaged or was not finished is passed over with a warning, as
            long as the one before it is whole.
    """

    def __init__(self, folder, every=None, seed=0, settings=None, callbacks=(), keep=False):
        super().__init__()
        if every is not None and not (isinstance(every, int) and every > 0):
            raise ValueError(f"`every` must be a number of steps above 0, or None. Received: {every!r}")
        if not isinstance(seed, int) or seed < 0:
            raise ValueError(f"`seed` must be an integer, 0 or more. Received: {seed!r}")
        self.folder = os.fspath(folder)
        self.every = every
        self.seed = seed
        self.settings = json.loads(json.dumps(settings or {}))
        self.callbacks = list(callbacks)
        self.keep = keep
        # Before models are made, if this is: of unlike shapes, they would wait for one another for ever.
        known = {"versions": runs.versions(), "seed": seed, "settings": self.settings}
        runs.check_workers(tf.distribute.get_strategy(), known)
        self._data = None
        # Where the next pass over the data begins: epoch, and step in it.
        self._start = (0, 0)
        self._handed = set()
        self._notice = False
        self._previous = None

    def epochs(self, make):
        """Data for `fit`, of which each epoch has an order of its own, and always the same.

        ```python
        data = backup.epochs(lambda seed: source.shuffle(10_000, seed=seed).batch(128))
        ```

        Args:
            make: Makes the `tf.data.Dataset` of one epoch, in batches, from a seed, a scalar int64 tensor that is a
                function of the run's seed and the number of the epoch. It must be finite, and random by this seed only;
                `fit` takes no `steps_per_epoch`.

        Returns:
            A `tf.data.Dataset`. Workers deal out its batches among them, whatever files it reads.

        Raises:
            ValueError: If an epoch has no end.
        """
        example = make(tf.constant(_seed(self.seed, 0)))
        steps = int(example.cardinality())
        if steps == tf.data.INFINITE_CARDINALITY:
            raise ValueError("An epoch must have an end. Let `make` end with .take(steps) of its batches.")
        steps = None if steps == tf.data.UNKNOWN_CARDINALITY else steps
        self._data = {"steps": steps, "elements": str(example.element_spec)}

        def position():
            self._handed.add(self._start)
            epoch, step = self._start
            return np.array([_seed(self.seed, epoch), step], "int64")

        def begin(_):
            return tf.ensure_shape(tf.numpy_function(position, [], tf.int64), (2,))

        def one(position):
            # The order is not to depend on the global seed, too.
            tf.random.set_seed(1)
            seed, step = position[0], position[1]
            rest = make(seed).skip(step)
            # Keras counts on as many batches as ever: those already learnt follow, where it does not come to read them.
            return rest if steps is None else rest.concatenate(make(seed).take(step))

        data = tf.data.Dataset.range(1).map(begin).flat_map(one)
        if steps is not None:
            data = data.apply(tf.data.experimental.assert_cardinality(steps))
        options = tf.data.Options()
        # By files, all of them would go to the first worker.
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
        return data.with_options(options).prefetch(tf.data.AUTOTUNE)

    def batches(self, data, batch_size, shuffle=True):
        """Data for `fit` from arrays in memory, as `fit` itself would make of them, shuffled in every epoch.

        Args:
            data: A structure of arrays of equal length: `x`, `(x, y)` or `(x, y, sample_weight)`, where `x` may be
                nested, and come `with_activations` and `with_index`.
            batch_size: Examples a step; the last batch has what is left.
            shuffle: Whether each epoch has an order of its own. Defaults to True.

        Returns:
            As `epochs`. An interrupted epoch goes on at once, without reading what was learnt.

        Raises:
            ValueError: If the arrays are not equally long.
        """
        # An accelerator has no need of all examples at once.
        with tf.device("CPU:0"):
            data = keras.tree.map_structure(_tensor, keras.tree.lists_to_tuples(data))
        lengths = {len(tensor) for tensor in keras.tree.flatten(data) if tensor is not None}
        if len(lengths) != 1:
            raise ValueError(f"The arrays must be equally long. Received lengths: {sorted(lengths)}")
        (length,) = lengths

        def rows(index, seed):
            if shuffle:
                seed = tf.stack([seed, 0])
                index = tf.random.experimental.index_shuffle(index, seed, tf.constant(length - 1, "int64"))
            return keras.tree.map_structure(lambda tensor: None if tensor is None else tf.gather(tensor, index), data)

        def make(seed):
            index = tf.data.Dataset.range(length).batch(batch_size)
            return index.map(lambda index: rows(index, seed), num_parallel_calls=tf.data.AUTOTUNE)

        return self.epochs(make)

    def delete(self):
        """Deletes the backup; whoever trains with the same folder begins anew. Of several workers, the first does."""
        if workers.is_chief(tf.distribute.get_strategy() if self.model is None else self.model.distribute_strategy):
            checkpoints.remove(self.folder)

    def on_train_begin(self, logs=None):
        model = self.model
        if not model.built:
            raise ValueError(
                f"A Backup needs a model that is built. Call '{model.name}' on a batch of its inputs, or give it an "
                "Input, before fit."
            )
        self._strategy = model.distribute_strategy
        if not model.optimizer.built:
            with self._strategy.scope():
                model.optimizer.build(model.trainable_variables)
        if self._data is not None and self.params["steps"] != self._data["steps"]:
            raise ValueError(_ONE_EPOCH)
        self._run = self._description()
        self._resumed, self._number = self._agreed()
        self._begun = self._notice = False
        self._handed.clear()
        self._lists = {}
        if self._resumed is not None:
            arrays = checkpoints.read(self.folder, self._number)
            self._lists = {name: array for name, array in arrays.items() if name.startswith("callback/")}
            self._assign(runs.variables(model), arrays)
            model._initial_epoch = self.params["epochs"] if self._resumed["stopped"] else self._resumed["epoch"]
            if self._resumed["step"]:
                self._pass_over(self._resumed["step"], arrays)
        self._listen()

    def on_epoch_begin(self, epoch, logs=None):
        if self._begun:
            # Not when the epoch before ended: only now all callbacks have seen it, History among them.
            self._write(epoch, 0)
            if self._told():
                self._leave()
        # How many of the epoch's steps were made by a process before this one.
        self._made = 0 if self._begun or self._resumed is None else self._resumed["step"]
        self._recall()
        # The last of them is made again.
        self._start = (epoch, max(self._made - self.model.steps_per_execution, 0))

    def on_train_batch_end(self, batch, logs=None):
        step, each = batch + 1, self.model.steps_per_execution
        if step <= self._made:
            return
        self._check_data()
        told = self._told()
        if told or (self.every is not None and step // self.every > (step - each) // self.every):
            self._write(self._start[0], step, logs)
        if told:
            self._leave()

    def on_train_end(self, logs=None):
        self.model._initial_epoch = None
        told = self._told()
        if self._begun and (self.keep or told):
            self._write(self._start[0] + 1, 0, stopped=self.model.stop_training)
        self._recall()
        if told:
            self._leave()
        self._unlisten()
        if not self.keep:
            self.delete()

    def _description(self):
        """What a run has to have in common with the one that it goes on with, and workers with one another."""
        described = {
            "versions": runs.versions(),
            "seed": self.seed,
            "settings": self.settings,
            "data": self._data or {"steps": self.params["steps"]},
            "steps_per_execution": self.model.steps_per_execution,
            "variables": [
                [name, list(variable.shape), variable.dtype] for name, variable in runs.variables(self.model).items()
            ],
        }
        # As it will be read.
        return json.loads(json.dumps(described))

    def _agreed(self):
        """Notes and number of the backup to go on with, or None; all workers raise alike."""
        notes = number = fault = None
        try:
            notes, number = checkpoints.latest(self.folder)
        except (OSError, ValueError) as error:
            fault = str(error)
        runs.check_workers(self._strategy, self._run)
        own = {"number": number, "fault": fault}
        found = [json.loads(text) for text in workers.all_gather_text(self._strategy, json.dumps(own))]
        for worker, other in enumerate(found):
            if other["fault"] is not None:
                raise ValueError(other["fault"])
            if other["number"] != found[0]["number"]:
                raise ValueError(
                    f"The workers do not see the same backups in '{self.folder}': the latest is {found[0]['number']} "
                    f"for worker 0 and {other['number']} for worker {worker}. Choose a folder that all of them reach."
                )
        if notes is not None:
            differences = runs.differences(notes["run"], self._run, "there", "here")
            if differences:
                raise ValueError(
                    f"The backup in '{self.folder}' is of another run: {differences}. Go on with what it was made "
                    "with, choose another folder, or delete it to begin anew."
                )
        return notes, number

    def _pass_over(self, steps, arrays):
        """Stands in for the training function until Keras has counted the steps that were made before."""
        model, train, each = self.model, self.model.train_function, self.model.steps_per_execution
        left = steps // each

        def pass_over(iterator):
            nonlocal left
            left -= 1
            if left and self._data is None:
                for _ in range(each):
                    next(iterator)
            if not left:
                # Keras makes some variables, such as those of metrics, in the first step of a process: the last of the
                # steps that were made is made again, and all is set to what it was afterwards.
                model.train_function = train
                train(iterator)
                self._check_data()
                self._assign({**runs.variables(model), **runs.metrics(model)}, arrays)
            return self._resumed["logs"]

        model.train_function = pass_over

    def _recall(self):
        """Gives callbacks back what they knew, once."""
        if self._begun:
            return
        self._begun = True
        self._fresh = [runs.plain_attributes(callback) for callback in self.callbacks]
        if self._resumed is None:
            return
        history = self.model.history
        history.history.clear()
        history.history.update(self._resumed["history"])
        history.epoch[:] = self._resumed["epochs"]
        for index, (callback, known) in enumerate(zip(self.callbacks, self._resumed["callbacks"])):
            vars(callback).update(known["plain"])
            for name, count in known["arrays"].items():
                found = [self._lists[f"callback/{index}/{name}/{number}"] for number in range(count or 1)]
                setattr(callback, name, found if count else found[0])

    def _assign(self, variables, arrays):
        for (name, variable), kept in zip(variables.items(), arrays):
            if runs.strip_numbers(kept) != runs.strip_numbers(name):
                raise ValueError(f"The backup in '{self.folder}' has '{kept}' where this run has '{name}'.")
            replicas.assign(self._strategy, variable, arrays[kept])

    def _write(self, epoch, step, logs=None, stopped=False):
        """Writes the state; all workers take part, since to read a metric takes all of them."""
        variables = runs.variables(self.model)
        if step:
            variables |= runs.metrics(self.model)
        arrays = {name: keras.ops.convert_to_numpy(variable) for name, variable in variables.items()}
        if not workers.is_chief(self._strategy):
            return
        callbacks = []
        for index, (callback, fresh) in enumerate(zip(self.callbacks, self._fresh)):
            # What never changes follows from settings, which the script may change.
            plain = {
                name: value
                for name, value in runs.plain_attributes(callback).items()
                if fresh.get(name, _NONE) != value
            }
            lists = runs.array_attributes(callback)
            for name, (_, values) in lists.items():
                arrays |= {f"callback/{index}/{name}/{number}": value for number, value in enumerate(values)}
            callbacks.append({"plain": plain, "arrays": {name: count for name, (count, _) in lists.items()}})
        notes = {
            "run": self._run,
            "epoch": epoch,
            "step": step,
            "stopped": stopped,
            "logs": logs or {},
            "history": self.model.history.history,
            "epochs": self.model.history.epoch,
            "callbacks": callbacks,
        }
        self._number = checkpoints.write(self.folder, arrays, notes, keep=[self._number])

    def _check_data(self):
        if self._data is not None and self._start not in self._handed:
            raise ValueError(_ONE_EPOCH)

    def _told(self):
        """Whether this worker, or any other, was told to stop.

        The workers ask one another, so that all stop after the same step: what one of them wrote into the folder might
        reach another too late, which would then wait in its next step for those that have gone.
        """
        return workers.any_worker(self._strategy, self._notice)

    def _leave(self):
        self._unlisten()
        self.model._initial_epoch = None
        print(f"Told to stop. Start again to go on from '{self.folder}'.", file=sys.stderr, flush=True)
        raise SystemExit(EXIT_PREEMPTED)

    def _listen(self):
        self._previous = None
        # Python lets no other thread.
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._hear) or signal.SIG_DFL

    def _unlisten(self):
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
            self._previous = None

    def _hear(self, number, frame):
        # Python calls this between two of its instructions, and it only takes a note: whatever is being written, the
        # first time or the tenth, is written to its end.
        self._notice = True
        while frame is not None:
            if frame.f_code.co_name == "fit" and frame.f_locals.get("self") is self.model:
                return
            frame = frame.f_back
        # `fit` was left by an error, and nobody would look at the note.
        self._unlisten()
        os.kill(os.getpid(), number)


_ONE_EPOCH = (
    "Data made by a Backup are an epoch each. Give them to `fit`, with the Backup among its callbacks and without "
    "`steps_per_epoch`; for shorter epochs let `make` end with .take(steps)."
)
_NONE = object()


def _seed(seed, epoch):
    """The seed of an epoch: 63 bits that NumPy promises never to make otherwise."""
    return np.int64(np.random.SeedSequence([seed, epoch]).generate_state(1, "uint64")[0] >> np.uint64(1))


def _tensor(array):
    if array is None:
        return None
    tensor = tf.convert_to_tensor(array)
    # As `fit` does with arrays.
    return tf.cast(tensor, keras.config.floatx()) if tensor.dtype.is_floating else tensor
