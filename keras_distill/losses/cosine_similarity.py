"""Cosine distance of hidden states or embeddings (DistilBERT)."""

import keras

from keras_distill.data.batch import Batch
from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.maths import cosine_distance, float32
from keras_distill.models.masking import mean_over_positions
from keras_distill.types import Tensor


def cosine_similarity(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute 1 minus the cosine similarity of two features.

    ```
    loss = 1 - <f_s, f_t> / (|f_s| * |f_t|)
    ```

    Lengths are not compared. Where either feature is zero, the loss is 1 and has no gradient.

    Args:
        student: Features after the head, shape `[batch, positions..., channels]`.
        teacher: Features, the same shape.

    Returns:
        Unitless, 0 to 2, shape `[batch, positions...]`.

    Reference:
        Sanh et al., 2019, https://arxiv.org/abs/1910.01108
    """
    return cosine_distance(*float32(student, teacher))


@keras.saving.register_keras_serializable("keras_distill")
class CosineSimilarity(DistillationLoss):
    """Cosine similarity loss (DistilBERT), averaged over positions.

    Aligns the direction of hidden states or embeddings. Use a `Projection` or `Convolution` head (`head="auto"`) where
    shapes differ. DistilBERT compares the last hidden states with weight 1, next to a weight of 5 for `KLDivergence`
    and 2 for the supervised loss.

    Reference:
        Sanh et al., 2019, https://arxiv.org/abs/1910.01108

    Example:
    >>> term = Term(CosineSimilarity(), student="features", teacher="features", head="auto")
    """

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        return mean_over_positions(cosine_similarity(student, teacher), batch.position_weight)
