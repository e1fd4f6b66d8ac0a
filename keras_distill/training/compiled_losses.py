"""The user's own losses and metrics, on the labelled part of a batch."""

import keras
from keras import ops

from keras_distill.data.labels import label_mask
from keras_distill.data.sample_weights import multiply_weights
from keras_distill.distribution import replicas
from keras_distill.losses import ChunkedCrossentropy
from keras_distill.models.masking import expand_to_rank
from keras_distill.models.specs import Spec


def connect_loss(loss, student, output):
    """Has a loss that reads a layer of the student look it up.

    Args:
        loss: As given to `compile`.
        student: A `keras.Model`.
        output: `Spec` of what it returns, or a structure of several.

    Raises:
        ValueError: If the layer is not there, or does not take what the student returns.
    """
    for part in keras.tree.flatten(loss):
        if isinstance(part, ChunkedCrossentropy):
            if not isinstance(output, Spec):
                raise ValueError(f"ChunkedCrossentropy takes a student of one output. Received: '{student.name}'.")
            part.connect(student, output.shape)


class CompiledLosses:
    """What `compile(loss=, metrics=)` asked for.

    Missing labels (see `labelled`) count nowhere: the loss is the mean over the labelled examples, metrics are of these
    alone.

    Args:
        loss, loss_weights, metrics, weighted_metrics: As given to `compile`, or None.
        output_names: The student's, or None.
    """

    def __init__(self, loss=None, loss_weights=None, metrics=None, weighted_metrics=None, output_names=None):
        self.supervised = loss is not None
        self._given = (loss, loss_weights, output_names)
        # Two, since Keras gives no weights to `metrics`, which here still have to leave missing labels out.
        self._plain = _Compiled(output_names, loss=loss, loss_weights=loss_weights, weighted_metrics=metrics)
        self._weighted = _Compiled(output_names, weighted_metrics=weighted_metrics)

    @classmethod
    def several(cls, output_names, loss=None, loss_weights=None, metrics=None, weighted_metrics=None):
        """One for each of several models that learn the same, `{name: Supervision}`, with metrics of their own.

        Args:
            output_names: `{name: the model's output names or None}`.
            loss, loss_weights, metrics, weighted_metrics: As given to `compile`.
        """
        own = {
            name: [keras.tree.map_structure(_another, given) for given in (metrics, weighted_metrics)]
            for name in output_names
        }
        return {name: cls(loss, loss_weights, *own[name], outputs) for name, outputs in output_names.items()}

    def alone(self):
        """The same loss without metrics, which keeps what Keras counts of its parts to itself."""
        loss, loss_weights, output_names = self._given
        return CompiledLosses(loss, loss_weights, output_names=output_names)

    @property
    def metrics(self):
        """Keras metrics, those that have seen data."""
        return [*self._plain.own_metrics, *self._weighted.own_metrics]

    def results(self):
        """`{name: value}` of the metrics, under the names that Keras gives them."""
        plain, weighted = self._plain.own_results(), self._weighted.own_results()
        return plain | {self._weighted_name(name) if name in plain else name: value for name, value in weighted.items()}

    def loss(self, labels, outputs, sample_weight=None):
        """The supervised loss, without regularisers; None if there is nothing to learn from.

        Args:
            labels, outputs, sample_weight: Structures of tensors as `fit` knows them; labels may be None.

        Returns:
            Scalar. As Keras has it, 1/n of the mean over a replica's examples on n replicas.
        """
        if labels is None or not self.supervised:
            return None
        present = self._map(_present, labels, outputs)
        balance = self._map(_balance, present, outputs)
        labels = keras.tree.map_structure(_filled, labels, present)
        return self._plain.compute_loss(None, labels, outputs, _times(sample_weight, balance))

    def update_metrics(self, labels, outputs, sample_weight=None):
        """Updates the metrics; without labels, none."""
        if labels is None:
            return
        present = self._map(_present, labels, outputs)
        labels = keras.tree.map_structure(_filled, labels, present)
        present = keras.tree.map_structure(lambda p: ops.cast(p, "float32"), present)
        self._plain.compute_metrics(None, labels, outputs, present)
        self._weighted.compute_metrics(None, labels, outputs, _times(sample_weight, present))

    def _weighted_name(self, name):
        for output in self._plain.output_names or ():
            if name.startswith(f"{output}_"):
                return f"{output}_weighted_{name.removeprefix(f'{output}_')}"
        return f"weighted_{name}"

    def _map(self, function, labels, outputs):
        """`function(label, output)` in the structure of the labels."""
        if isinstance(labels, dict):
            outputs = outputs if isinstance(outputs, dict) else dict(zip(self._plain.output_names, outputs))
            return {key: self._map(function, labels[key], outputs[key]) for key in labels}
        if isinstance(labels, (list, tuple)):
            outputs = [outputs[key] for key in self._plain.output_names] if isinstance(outputs, dict) else outputs
            return type(labels)(self._map(function, *pair) for pair in zip(labels, outputs))
        return function(labels, keras.tree.flatten(outputs)[0])


class _Compiled(keras.Model):
    """A model without layers, for what `compile` knows: which loss, weight and metric belongs to which output."""

    def __init__(self, output_names, **compiled):
        super().__init__()
        # A tuple: Keras would wrap a list, and the wrapper is no list to its own structure checks.
        self.output_names = None if output_names is None else tuple(output_names)
        self.compile(optimizer=None, jit_compile=False, **compiled)

    @property
    def own_metrics(self):
        # The loss tracker is the distiller's business; a metric without variables has seen no data yet.
        return [metric for metric in self.metrics if metric.name != "loss" and metric.variables]

    def own_results(self):
        results = {}
        for metric in self.own_metrics:
            result = metric.result()
            results.update(result if isinstance(result, dict) else {metric.name: result})
        return results


def _another(metric):
    """A metric like the given one, which keeps what it has seen to itself."""
    return type(metric).from_config(metric.get_config()) if isinstance(metric, keras.metrics.Metric) else metric


def _present(labels, outputs):
    return label_mask(ops.convert_to_tensor(labels), outputs)


def _balance(present, outputs):
    """Weights under which Keras' mean over a replica's examples, times its share of all, adds up over the replicas to
    the mean over the labelled ones.
    """
    present = ops.cast(present, "float32")
    mask = getattr(outputs, "_keras_mask", None)
    counted = ops.ones_like(present) if mask is None or mask.shape != present.shape else ops.cast(mask, "float32")
    examples = ops.cast(ops.shape(present)[0], "float32")
    labelled, everywhere = replicas.all_reduce_sum([ops.sum(counted * present), examples])
    return present * ops.divide_no_nan(ops.sum(counted) * everywhere, examples * labelled)


def _filled(labels, present):
    """The labels with 0, which any loss can be computed for, where there is none."""
    labels = ops.convert_to_tensor(labels)
    return ops.where(expand_to_rank(present, len(labels.shape)), labels, ops.zeros_like(labels))


def _times(sample_weight, weights):
    if sample_weight is None:
        return weights
    if keras.tree.is_nested(weights) and not keras.tree.is_nested(sample_weight):
        return keras.tree.map_structure(lambda w: multiply_weights(sample_weight, w), weights)
    return keras.tree.map_structure(multiply_weights, sample_weight, weights)
