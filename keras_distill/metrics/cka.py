"""How much two layers' representations have in common."""

import keras
from keras import ops

from keras_distill.metrics.base import DistillationMetric
from keras_distill.models.masking import mean_over_positions, zero_padding


@keras.saving.register_keras_serializable("keras_distill")
class CKA(DistillationMetric):
    """Linear centred kernel alignment between a layer of the student and one of the teacher.

    ```
    CKA  = sum_b n_b * HSIC(K_b, L_b) / sqrt(sum_b n_b * HSIC(K_b, K_b) * sum_b n_b * HSIC(L_b, L_b))
    K_b  = F F^T of the student's activations F, one row for each of the n_b examples of batch b; L_b the teacher's
    HSIC = the unbiased estimate:
           1/(n (n-3)) * [tr(K' L') + (1^T K' 1)(1^T L' 1) / ((n-1)(n-2)) - 2/(n-2) * 1^T K' L' 1],   K' = K, diagonal 0
    ```

    1 where one layer is the other, rotated, scaled and shifted; near 0 for unrelated ones. Widths and resolutions may
    differ; no head is needed. Each batch's estimate is unbiased, so that their sums, and with enough batches the value,
    do not depend on the batch size, as those of the biased estimate would: from small batches that finds any two layers
    alike. The price is noise: few examples may give a little less than 0 or more than 1. Batches of less than four
    examples have no estimate and count for nothing.

    Positions (tokens, pixels) are further components of an example's activation, padded ones 0. Sample weights leave
    out examples and positions, whose weight is 0, and nothing else.

    Args:
        student, teacher, mask: As for `DistillationMetric`.
        name: Defaults to "cka"; several need one each.

    Reference:
        Kornblith et al., ICML 2019, https://arxiv.org/abs/1905.00414; Nguyen, Raghu and Kornblith, ICLR 2021,
        https://arxiv.org/abs/2010.15327, equations 2 and 3
    """

    relational = True

    def __init__(self, student, teacher, name="cka", **kwargs):
        super().__init__(student, teacher, name=name, **kwargs)
        self.both, self.of_student, self.of_teacher = (
            self.add_variable(shape=(), initializer="zeros", name=name) for name in ("both", "student", "teacher")
        )

    def update_state(self, student, teacher, sample_weight=None):
        """Adds a batch.

        Args:
            student: Activations, shape `[batch, ...]`.
            teacher: Activations, shape `[batch, ...]`.
            sample_weight: Shape `[batch]` or `[batch, positions...]`; 0 leaves an example, or a position of both
                activations, out.
        """
        pair = [ops.cast(ops.convert_to_tensor(x), "float32") for x in (student, teacher)]
        counts = ops.ones(ops.shape(pair[0])[:1], dtype="float32")
        if sample_weight is not None:
            present = ops.convert_to_tensor(sample_weight) > 0
            counts = ops.cast(mean_over_positions(ops.cast(present, "float32")) > 0, "float32")
            pair = [zero_padding(x, present) for x in pair]
        examples = ops.sum(counts)
        student, teacher = (_centred_gram(x, counts, examples) for x in pair)
        # HSIC times n; the product of two centred matrices is the bracket above.
        share = ops.where(examples > 3, 1.0 / ops.maximum(examples - 3.0, 1.0), 0.0)
        for variable, first, second in (
            (self.both, student, teacher),
            (self.of_student, student, student),
            (self.of_teacher, teacher, teacher),
        ):
            variable.assign_add(share * ops.sum(first * second))

    def result(self):
        # Not the root of the product, which large activations would make infinite.
        return ops.divide_no_nan(ops.divide_no_nan(self.both, ops.sqrt(self.of_student)), ops.sqrt(self.of_teacher))


def _centred_gram(features, counts, examples):
    """The Gram matrix of a batch, of which each row has the mean 0, the diagonal left out (U-centred)."""
    counts = ops.reshape(counts, (-1, 1))
    features = ops.reshape(features, (ops.shape(features)[0], -1)) * counts
    # Changes nothing but the rounding: what is left of large features that are nearly alike.
    features = (features - ops.sum(features, axis=0) / ops.maximum(examples, 1.0)) * counts
    pairs = ops.matmul(counts, ops.transpose(counts)) * (1.0 - ops.eye(ops.shape(features)[0], dtype="float32"))
    gram = ops.matmul(features, ops.transpose(features)) * pairs
    rows = ops.sum(gram, axis=0) / ops.maximum(examples - 2.0, 1.0)
    whole = ops.sum(rows) / ops.maximum(examples - 1.0, 1.0)
    return (gram - ops.expand_dims(rows, 0) - ops.expand_dims(rows, 1) + whole) * pairs
