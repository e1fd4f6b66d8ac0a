"""Alignment of hidden states or embeddings (DistilBERT)."""

import keras

from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.maths import cosine_distance, float32
from keras_distill.models.masking import mean_over_positions


def cosine_similarity(student, teacher):
    """1 less the cosine of the angle between two features.

    ```
    loss = 1 - <f_s, f_t> / (|f_s| * |f_t|)
    ```

    Lengths are left free. Where either feature is zero, the loss is 1 and has no gradient.

    Args:
        student: Features after the head, shape `[batch, positions..., channels]`.
        teacher: Features, the same shape.

    Returns:
        Unitless, 0 to 2, shape `[batch, positions...]`.

    Reference:
        Sanh et al., 2019, https://arxiv.org/abs/1910.01108
    """
    return cosine_distance(*float32(student, teacher))


# By another name than the schedule of this name, since Keras looks both up in one place.
@keras.saving.register_keras_serializable("keras_distill", name="CosineLoss")
class CosineSimilarity(DistillationLoss):
    """`cosine` as a loss for a `Term`, averaged over positions. Features of unlike shapes need a head."""

    def compare(self, student, teacher, batch):
        return mean_over_positions(cosine_similarity(student, teacher), batch.position_weight)
