"""Factor transfer (FT): the teacher's paraphrased features, whatever their scale."""

import keras
from keras import ops

from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.maths import float32


def factor_transfer(student, teacher, p=1, q=2):
    """Distance of two factors, each scaled to length 1 as a whole.

    ```
    loss = || f_s / |f_s|_q - f_t / |f_t|_q ||_p
    ```

    At `p = 1` this is the sum of the paper, where its code has a mean. A factor of zeros stays zero.

    Args:
        student: Features after the head (the translator), shape `[batch, ...]`.
        teacher: Features (after the paraphraser), the same shape.
        p: Order of the norm of the difference, 1 or more.
        q: Order of the norm that factors are scaled by, 1 or more; 2 in the paper.

    Returns:
        Unitless, shape `[batch]`.

    Reference:
        Kim et al., NeurIPS 2018, https://arxiv.org/abs/1802.04977, equation 3.
        With another `q` it is the knowledge adaptation of He et al., CVPR 2019, https://arxiv.org/abs/1903.04688
    """
    student, teacher = (_scaled(ops.reshape(f, (ops.shape(f)[0], -1)), q) for f in float32(student, teacher))
    return _norm(student - teacher, p)[:, 0]


def _scaled(vectors, order):
    # The direction does not depend on the scale: divided by their largest entry first, no power overflows or vanishes.
    largest = ops.stop_gradient(ops.max(ops.abs(vectors), axis=-1, keepdims=True))
    zero = largest < 1e-30
    vectors = vectors / ops.where(zero, 1.0, largest)
    return ops.where(zero, 0.0, vectors / ops.where(zero, 1.0, _norm(vectors, order)))


def _norm(vectors, order):
    size = ops.abs(vectors)
    if order == 1:
        return ops.sum(size, axis=-1, keepdims=True)
    # A root has no gradient at 0.
    total = ops.sum(ops.square(vectors) if order == 2 else ops.power(size, order), axis=-1, keepdims=True)
    zero = total == 0
    return ops.where(zero, 0.0, ops.power(ops.where(zero, 1.0, total), 1 / order))


@keras.saving.register_keras_serializable("keras_distill")
class FactorTransfer(DistillationLoss):
    """`factor_transfer` as a loss for a `Term`. Features of unlike shapes need a head.

    Args:
        p: Order of the norm of the difference, default 1.
        q: Order of the norm that factors are scaled by, default 2.
    """

    def __init__(self, p=1, q=2, **kwargs):
        super().__init__(**kwargs)
        for name, order in (("p", p), ("q", q)):
            if isinstance(order, bool) or not isinstance(order, (int, float)) or not 1 <= order < float("inf"):
                raise ValueError(f"`{name}` must be a finite number, 1 or more. Received: {order!r}")
        self.p = p
        self.q = q

    def compare(self, student, teacher, batch):
        return factor_transfer(student, teacher, self.p, self.q)

    def get_config(self):
        return {**super().get_config(), "p": self.p, "q": self.q}
