"""Hidden states and embeddings of a transformer (TinyBERT)."""

import keras
from keras import ops

from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.maths import float32
from keras_distill.models.masking import mean_over_positions


def hidden_state(student, teacher):
    """Mean squared difference of two states of a token.

    ```
    loss = 1/width * sum_c (h_s[c] W - h_t[c])^2,  W = the head
    ```

    The head is a `Projection` without bias in the paper. Its code counts padded tokens too; TextBrewer's leaves them
    out, and so does this.

    Args:
        student: Hidden states or embeddings after the head, shape `[batch, tokens, width]`.
        teacher: Hidden states or embeddings, the same shape.

    Returns:
        The square of the states' unit, shape `[batch, tokens]`.

    Reference:
        Jiao et al., EMNLP Findings 2020, https://arxiv.org/abs/1909.10351, equations 8 and 9
    """
    student, teacher = float32(student, teacher)
    return ops.mean(ops.square(student - teacher), axis=-1)


@keras.saving.register_keras_serializable("keras_distill")
class HiddenState(DistillationLoss):
    """`hidden_state` as a loss for a `Term`, averaged over tokens. States of unlike widths need a head."""

    rank = 3

    def compare(self, student, teacher, batch):
        return mean_over_positions(hidden_state(student, teacher), batch.position_weight)
