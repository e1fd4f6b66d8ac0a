"""What training loops share: logs that add up, replicas, and what Keras leaves out of its files."""

import contextlib
import functools

import keras
import tensorflow as tf
from keras import ops

from keras_distill.data.batch import batch_size
from keras_distill.distribution import replicas, workers
from keras_distill.training.validation import check_batch_size, check_step


class BaseDistiller(keras.Model):
    """A model that trains others by several losses. Abstract.

    A leaf calls `_follow` when it is made, has `_supervise` and `_results`, and calls `_update` and `_track` in every
    step.
    """

    # Whether the first batch of a training is awaited.
    _begins = False

    def compile(self, optimizer="rmsprop", loss=None, loss_weights=None, metrics=None, weighted_metrics=None, **kwargs):
        """As `keras.Model.compile`. `loss=None` learns without labels.

        On several replicas, layers of `BatchNormalization` are made to see the batch of all: `synchronized=True`.

        Raises:
            ValueError: For a loss that does not fit the models, and for options that do not work under the strategy.
        """
        strategy = self._distribute_strategy
        # Wherever this is called, what it makes belongs to the strategy under which the models were made.
        with contextlib.nullcontext() if strategy is None else strategy.scope():
            check_step(optimizer, **kwargs)
            self._supervise(loss, loss_weights, metrics, weighted_metrics)
            super().compile(optimizer, loss, loss_weights, metrics, weighted_metrics, **kwargs)
            # Built here, so that weights can be loaded, the optimizer's among them, before the first step.
            self.optimizer.build(self.trainable_variables)
            if replicas.num_replicas() > 1:
                for layer in self._flatten_layers():
                    if isinstance(layer, keras.layers.BatchNormalization):
                        layer.synchronized = True

    @functools.wraps(keras.Model.fit)
    def fit(self, *args, **kwargs):
        self._begins = True
        return super().fit(*args, **kwargs)

    def _supervise(self, loss, loss_weights, metrics, weighted_metrics):
        """Refuses what does not fit the models, and keeps the rest as `Supervision`."""
        raise NotImplementedError

    def get_metrics_result(self):
        """`{name: value}` of the losses and metrics so far; outside of a graph numbers."""
        return {
            name: value if tf.is_symbolic_tensor(value) or len(ops.shape(value)) else float(value)
            for name, value in self._results().items()
        }

    def _results(self):
        """`{name: tensor}` of what is logged."""
        raise NotImplementedError

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # Keras' own takes the mean over the replicas' shares of a batch, which must then be numbers, equally many each.
        strategy = self._distribute_strategy
        if strategy is None:
            return
        if iterator is not None:
            _, _, shares = next(iter(iterator))
            data_batch = next(shares)
            begins, self._begins = self._begins, False
            if begins:
                check_batch_size(strategy, data_batch)
        with strategy.scope():
            first = keras.tree.map_structure(lambda share: strategy.experimental_local_results(share)[0], data_batch)
            self._symbolic_build(data_batch=first)

    def _update(self, gradients):
        """Applies the gradients of the trained variables."""
        replicas.apply_gradients(self.optimizer, gradients, self.trainable_variables)

    def _follow(self, names, of_labels):
        """Says which losses will be logged.

        Args:
            names: In the order of the logs.
            of_labels: Those among them that are left out if `compile` got no loss.
        """
        self._trackers = {name: keras.metrics.Mean(name=name) for name in names}
        self._of_labels = frozenset(of_labels)

    def _track(self, losses, batch):
        """Logs `{name: mean over the batch}`."""
        for name, value in losses.items():
            self._trackers[name].update_state(value, sample_weight=batch_size(batch.inputs))

    def _reported(self, logs):
        """What a step returns, of `{name: value}` that are alike on all replicas."""
        if workers.num_workers(tf.distribute.get_strategy()) == 1:
            return logs
        # Over several workers Keras takes the mean along an axis, which scalars have none of.
        return {name: ops.expand_dims(value, 0) for name, value in logs.items()}

    def _shown(self):
        """The metrics of the losses."""
        hidden = self._of_labels if self.loss is None else ()
        return [tracker for name, tracker in self._trackers.items() if name not in hidden]

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))

    def save_own_variables(self, store):
        for name, variable in self._unlisted().items():
            store[name] = variable

    def load_own_variables(self, store):
        for name, variable in self._unlisted().items():
            variable.assign(store[name])

    def _unlisted(self):
        """What Keras leaves out of its files, by name: random states, without which dropout would not go on where it
        was.
        """
        weights = {id(weight) for weight in self.weights}
        states = [variable for variable in self.variables if id(variable) not in weights]
        return {f"random_state_{index}": state for index, state in enumerate(states)}


def replica_fraction(batch):
    """This replica's part of all examples of the step, 0 to 1.

    Keras sums the gradients of all replicas: losses that are means over a replica's examples make, times its share, the
    update of one device, however unevenly the last batch was dealt out.
    """
    examples = ops.cast(batch_size(batch.inputs), "float32")
    return examples / ops.maximum(replicas.all_reduce_sum(examples), 1.0)


def local_mean(loss, batch):
    """A supervised loss as the mean over this replica's examples, float32; 0 if there is none.

    Args:
        loss: As Keras computes it, 1/n of that on n replicas, or None.
        batch: The `Batch`.
    """
    if loss is None:
        return 0.0
    # The mean over no example is none.
    return ops.where(batch_size(batch.inputs) > 0, ops.cast(loss, "float32") * replicas.num_replicas(), 0.0)


def mean_over_examples(values):
    """The mean over this replica's examples, 0 if there are none."""
    return ops.sum(values) / ops.cast(ops.maximum(ops.shape(values)[0], 1), "float32")


def regularization_losses(layers):
    """The sum of layers' regularisers and added losses, float32.

    To be asked right after they ran, before the replicas meet: Keras keeps in one list what the layers of all of them
    add.
    """
    return sum((ops.sum(ops.cast(loss, "float32")) for layer in layers for loss in layer.losses), 0.0)
