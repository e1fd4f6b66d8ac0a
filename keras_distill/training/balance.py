"""Term weight that follows the supervised loss."""

from collections.abc import Iterable
from typing import Any

import keras
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.distribution import replicas
from keras_distill.schedules import check_positive, deserialize_values, value_at
from keras_distill.training.loss_weight import LossWeight
from keras_distill.training.reductions import replica_fraction
from keras_distill.types import ScheduleLike, Tensor
from keras_distill.utils.arguments import check_number

_LARGEST = 1e6


@keras.saving.register_keras_serializable("keras_distill")
class Balance(keras.layers.Layer, LossWeight):
    """Term weight that keeps the weighted term at a given ratio to the supervised loss, on average.

    ```
    weight = ratio * m(|supervised loss|) / m(term)
    m      = running mean over training steps: momentum * m + (1 - momentum) * (value of this step)
    ```

    The scale of a feature loss depends on layers and heads and falls by orders of magnitude during training, so that a
    constant weight has to be tuned for each term. The supervised loss is the logged one, before `supervised_weight`.
    Use a balance for terms that accompany labels: it cannot distinguish a term that is small because it is learned, and
    increases its weight.

    The first step is weighted by its own two losses; before it the weight is 0. Steps without labels or with a loss
    that is not finite leave the means unchanged. The weight has no gradient, is at most 1e6, and is 0 as long as the
    term has always been 0. Evaluation uses the weight and does not update it. The weight is logged as `<name>_weight`,
    saved with the distiller, and equal on all replicas.

    Args:
        ratio: Weighted term divided by the supervised loss, a number > 0 or a schedule. 0.1 to 1 is typical. Defaults
            to 1.
        momentum: Momentum of the running means, in [0, 1). The means lag by about `1 / (1 - momentum)` steps; 0
            balances each step by itself. Defaults to 0.99.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name`.

    Raises:
        ValueError: For a ratio that is not > 0 and a momentum outside [0, 1).

    Example:
    >>> term = Term(Hint(), "block_2", "block_4", head="auto", weight=Balance(0.1))
    """

    needs_supervised_loss = True

    def __init__(self, ratio: ScheduleLike = 1.0, momentum: float = 0.99, **kwargs: Any):
        # float32 whatever the global dtype policy, like the losses.
        super().__init__(dtype=kwargs.pop("dtype", "float32"), **kwargs)
        self.ratio = check_positive(ratio, "ratio")
        self.momentum = check_number(momentum, "momentum", at_least=0, below=1)

    def build(self):
        # Both start at 0 and move at the same pace, so that their ratio has no bias toward the start.
        self.supervised_mean = self._running_mean("supervised_mean")
        self.term_mean = self._running_mean("term_mean")
        self.built = True

    def _running_mean(self, name):
        return self.add_weight(shape=(), initializer="zeros", trainable=False, aggregation="mean", name=name)

    @property
    def state(self) -> tuple[keras.Variable, keras.Variable]:
        """The two running means."""
        return (self.supervised_mean, self.term_mean)

    def value(self, step: Tensor) -> Tensor:
        # Converted here, so that a step reads the means that its own `update` has moved.
        supervised, term = (ops.convert_to_tensor(mean) for mean in self.state)
        return ops.minimum(ops.divide_no_nan(value_at(self.ratio, step) * supervised, term), _LARGEST)

    def peak(self, steps: Iterable[Tensor], loss: float, supervised: float) -> float:
        ratio = max(float(value_at(self.ratio, step)) for step in steps)
        return min(ratio * abs(supervised) / loss, _LARGEST) if loss else 0.0

    def update(self, loss: Tensor, supervised: Tensor, batch: Batch) -> None:
        # Means over the examples of all replicas.
        fraction = replica_fraction(batch)
        supervised, loss = replicas.all_reduce_sum([fraction * supervised, fraction * loss])
        supervised, loss = ops.abs(ops.stop_gradient(supervised)), ops.stop_gradient(loss)
        # A supervised loss of 0 is that of a batch without labels.
        counts = ops.logical_and(supervised > 0, ops.isfinite(supervised + loss))
        for mean, value in ((self.supervised_mean, supervised), (self.term_mean, loss)):
            moved = self.momentum * mean + (1.0 - self.momentum) * value
            mean.assign(ops.where(counts, moved, mean))

    def get_config(self):
        return {**super().get_config(), "ratio": self.ratio, "momentum": self.momentum}

    @classmethod
    def from_config(cls, config):
        return cls(**deserialize_values(config))
