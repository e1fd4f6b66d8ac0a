"""Channel-wise distillation (CWD): where each channel is active, taken as probabilities."""

import keras
from keras import ops

from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.checks import check_positions
from keras_distill.losses.maths import channels_first, float32, kl_from_logits
from keras_distill.models.masking import expand_to_rank
from keras_distill.schedules import check_positive, value_at


def channel_wise_kd(student, teacher, temperature=4.0, position_weight=None):
    """Divergence of the student's softened activations from the teacher's, over the positions of each channel.

    ```
    loss = T^2/channels * sum_c sum_i p_t[i, c] * (log p_t[i, c] - log p_s[i, c]),  i = a position
    p[:, c] = softmax over positions of (features[:, c] / T)
    ```

    For dense prediction, of features or of logits: in a softmax over classes most pixels are background.

    Args:
        student: Features, shape `[batch, positions..., channels]`.
        teacher: Features, the same shape.
        temperature: Above 0; a higher one widens the region that counts.
        position_weight: As in a `Batch`; where it is 0, a position has no part in the softmax.

    Returns:
        Nats, shape `[batch]`.

    Reference:
        Shu et al., ICCV 2021, https://arxiv.org/abs/2011.13256
    """
    student, teacher = float32(student, teacher)
    if position_weight is not None:
        present = expand_to_rank(position_weight, len(student.shape)) > 0
        student, teacher = (ops.where(present, features, -1e30) for features in (student, teacher))
    values = kl_from_logits(channels_first(student), channels_first(teacher), temperature)
    return temperature**2 * ops.mean(values, axis=-1)


@keras.saving.register_keras_serializable("keras_distill")
class ChannelWiseKD(DistillationLoss):
    """`channel_wise` as a loss for a `Term`. Features of unlike shapes need a head.

    Args:
        temperature: A number or a schedule, default 4.
    """

    def __init__(self, temperature=4.0, **kwargs):
        super().__init__(**kwargs)
        self.temperature = check_positive(temperature, "temperature")

    def build(self, student_shape, teacher_shape):
        check_positions("ChannelWiseKD", student_shape, teacher_shape)

    def compare(self, student, teacher, batch):
        return channel_wise_kd(student, teacher, value_at(self.temperature, batch.step), batch.position_weight)

    def get_config(self):
        return {**super().get_config(), "temperature": self.temperature}
