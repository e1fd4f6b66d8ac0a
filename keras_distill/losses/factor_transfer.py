"""Factor transfer (FT)."""

from typing import Any

import keras
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.maths import float32
from keras_distill.types import Tensor
from keras_distill.utils.arguments import check_number


def factor_transfer(student: Tensor, teacher: Tensor, p: float = 1, q: float = 2) -> Tensor:
    """Compute the distance between two factors, each scaled to norm 1.

    ```
    loss = || f_s / |f_s|_q - f_t / |f_t|_q ||_p
    ```

    At `p = 1` this is the paper's sum over the entries; the authors' code uses the mean. A factor of zeros stays zero.

    Args:
        student: Student factors (the output of the head, a `Translator`), shape `[batch, ...]`.
        teacher: Teacher factors (the output of the paraphraser), the same shape.
        p: Order of the norm of the difference, >= 1. 1 or 2 is typical. Defaults to 1.
        q: Order of the norm that scales each factor, >= 1. 2 in the paper. Defaults to 2.

    Returns:
        Unitless, shape `[batch]`.

    Reference:
        Kim et al., NeurIPS 2018, https://arxiv.org/abs/1802.04977, equation 3.
        Other values of `q` give the knowledge adaptation of He et al., CVPR 2019, https://arxiv.org/abs/1903.04688
    """
    student, teacher = float32(student, teacher)
    return _norm(_scale_to_unit_norm(student, q) - _scale_to_unit_norm(teacher, q), p)[:, 0]


def _scale_to_unit_norm(factors, order):
    vectors = ops.reshape(factors, (ops.shape(factors)[0], -1))
    # The direction does not depend on the scale. Dividing by the largest entry first keeps powers from overflowing or
    # vanishing.
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
    """Factor transfer loss (FT).

    Compares the student's factors, the output of a `Translator` head, with the teacher's, the tap `"factors"` of a
    `ParaphrasedTeacher`. Without a paraphraser, compare feature maps. Use a head where shapes differ. The authors'
    weight of 500 multiplies the mean over the entries of a factor; this loss is their sum, so the same weight is 500
    divided by height * width * channels of the factors.

    Args:
        p: Order of the norm of the difference, a finite number >= 1. Defaults to 1.
        q: Order of the norm that scales each factor, a finite number >= 1. Defaults to 2.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name`.

    Raises:
        ValueError: If `p` or `q` is not a finite number >= 1.

    Reference:
        Kim et al., NeurIPS 2018, https://arxiv.org/abs/1802.04977

    Example:
    >>> weight = 500.0 / (4 * 4 * 16)
    >>> term = Term(FactorTransfer(), student="block_2", teacher="block_4", head=Translator(), weight=weight)
    """

    def __init__(self, p: float = 1, q: float = 2, **kwargs: Any):
        super().__init__(**kwargs)
        self.p = check_number(p, "p", at_least=1)
        self.q = check_number(q, "q", at_least=1)

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        return factor_transfer(student, teacher, self.p, self.q)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "p": self.p, "q": self.q}
