"""A term's weight that follows the supervised loss."""

import keras
from keras import ops

from keras_distill.schedules import check_positive, deserialize_values, value_at

_LARGEST = 1e6


@keras.saving.register_keras_serializable("keras_distill")
class Balance(keras.layers.Layer):
    """As a term's weight: keeps the weighted term at a given ratio to the supervised loss, on average.

    ```
    weight = ratio * m(|supervised loss|) / m(term)
    m      = running mean over training steps: momentum * m + (1 - momentum) * (the value of this step)
    ```

    ```python
    Term(Hint(), "block_3", "block_6", head="auto", weight=Balance(0.1))
    ```

    Losses of features come in any size, which changes by orders of magnitude while they are learnt; a number as weight
    has to be found anew for each. The supervised loss is the one logged, before `supervised_weight`. A balance is for
    terms that accompany labels: it cannot tell that a term is small because it is learnt, and then weighs it more.

    The first step has a weight already, that of its own two losses; before it the weight is 0. Steps without a label,
    or with a loss that is not finite, move nothing. The weight has no gradient, is at most 1e6, and 0 if the term has
    always been 0. Evaluation uses it and leaves it alone. It is logged as `<name>_weight`, saved with the distiller,
    and the same on all replicas.

    Args:
        ratio: Of the weighted term to the supervised loss, a number or a schedule. Defaults to 1.
        momentum: 0 or more and below 1, default 0.99; 0 balances each step by itself. The means lag behind losses that
            fall by about `1 / (1 - momentum)` steps.

    Raises:
        ValueError: For another number.
    """

    def __init__(self, ratio=1.0, momentum=0.99, **kwargs):
        # float32 whatever the global policy, as the losses.
        super().__init__(dtype=kwargs.pop("dtype", "float32"), **kwargs)
        self.ratio = check_positive(ratio, "ratio")
        self.momentum = check_positive(momentum, "momentum", zero=True, schedule=False)
        if self.momentum >= 1:
            raise ValueError(f"`momentum` must be below 1. Received: {momentum!r}")

    def build(self):
        # From 0 both, at the same pace: what the start takes from one mean it takes from the other.
        self.supervised_mean, self.term_mean = (
            self.add_weight(shape=(), initializer="zeros", trainable=False, aggregation="mean", name=name)
            for name in ("supervised_mean", "term_mean")
        )

    def weight(self, supervised, term, step, training=False):
        """The weight of this step.

        Args:
            supervised: The supervised loss, a scalar, the mean over all replicas' examples.
            term: The term's loss, likewise.
            step: The optimizer's step.
            training: Whether the running means move, before they are read.

        Returns:
            Unitless, a float32 scalar without gradient.
        """
        if training:
            self._move(ops.abs(ops.stop_gradient(supervised)), ops.stop_gradient(term))
        # Read back after they moved: the weight of this very step.
        supervised, term = (ops.convert_to_tensor(mean) for mean in (self.supervised_mean, self.term_mean))
        return ops.minimum(ops.divide_no_nan(value_at(self.ratio, step) * supervised, term), _LARGEST)

    def _move(self, supervised, term):
        # A supervised loss of 0 is that of a batch without labels.
        counts = ops.logical_and(supervised > 0, ops.isfinite(supervised + term))
        for mean, value in ((self.supervised_mean, supervised), (self.term_mean, term)):
            moved = self.momentum * mean + (1.0 - self.momentum) * value
            mean.assign(ops.where(counts, moved, mean))

    def get_config(self):
        return {**super().get_config(), "ratio": self.ratio, "momentum": self.momentum}

    @classmethod
    def from_config(cls, config):
        return cls(**deserialize_values(config))
