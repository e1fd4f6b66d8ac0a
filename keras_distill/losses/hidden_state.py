"""Hidden state and embedding distillation (TinyBERT)."""

import keras
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.maths import float32
from keras_distill.models.masking import mean_over_positions
from keras_distill.types import Tensor


def hidden_state(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute the mean squared difference of the hidden states of each token.

    ```
    loss = 1/width * sum_c (h_s[c] W - h_t[c])^2,  W = the head
    ```

    Args:
        student: Hidden states or embeddings after the head, shape `[batch, tokens, width]`.
        teacher: Hidden states or embeddings, the same shape.

    Returns:
        Square of the states' unit, shape `[batch, tokens]`.

    Reference:
        Jiao et al., EMNLP Findings 2020, https://arxiv.org/abs/1909.10351, equations 8 and 9
    """
    student, teacher = float32(student, teacher)
    return ops.mean(ops.square(student - teacher), axis=-1)


@keras.saving.register_keras_serializable("keras_distill")
class HiddenState(DistillationLoss):
    """Hidden state and embedding loss (TinyBERT), averaged over tokens.

    Use a head where widths differ: `head=Projection(use_bias=False)` is the paper's. Padded tokens are excluded; the
    paper's code includes them. TinyBERT uses this loss for the embeddings and for every student layer, with weight 1.

    Reference:
        Jiao et al., EMNLP Findings 2020, https://arxiv.org/abs/1909.10351

    Example:
    >>> head = Projection(use_bias=False)
    >>> term = Term(HiddenState(), student="encoder/layer_2", teacher="encoder/layer_6", head=head)
    """

    rank = 3

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        return mean_over_positions(hidden_state(student, teacher), batch.position_weight)
