"""What training loops share: logs that add up, replicas, and what Keras leaves out of its files."""

import keras
import tensorflow as tf
from keras import ops

from keras_distill.batch import batch_size


class Loop(keras.Model):
    """A model that trains others by several losses. Abstract.

    A leaf calls `_follow` when it is made, and `_track` in every step.
    """

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


def replicas():
    """How many devices share a step."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def own_mean(loss):
    """A supervised loss as the mean over this replica's examples, float32; 0 if there is none.

    Args:
        loss: As Keras computes it, 1/n of that on n replicas, or None.
    """
    return 0.0 if loss is None else ops.cast(loss, "float32") * replicas()


def penalties(model):
    """The sum of a model's regularisers and added losses, float32."""
    return sum(ops.sum(ops.cast(loss, "float32")) for loss in model.losses)
