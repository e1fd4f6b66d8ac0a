"""How far the student's probabilities are from the teacher's."""

import keras

from keras_distill.losses.maths import kl_from_logits
from keras_distill.metrics.mean import MeanMetric
from keras_distill.schedules import check_positive


@keras.saving.register_keras_serializable("keras_distill")
class TeacherDivergence(MeanMetric):
    """The student's fidelity: mean divergence of its softened class probabilities from the teacher's.

    ```
    mean of KL(softmax(z_t / T) || softmax(z_s / T))
    ```

    In nats, 0 where both are the same, and without the factor `T^2` of the loss `KLDivergence`: a change of the
    loss's temperature leaves it comparable.

    Args:
        temperature: Default 1, the probabilities as they are.
        student, teacher, mask: As for `DistillationMetric`.
        name: Defaults to "divergence".

    Raises:
        ValueError: If `temperature` is not above 0.

    Reference:
        Stanton et al., NeurIPS 2021, https://arxiv.org/abs/2106.05945
    """

    def __init__(self, temperature=1.0, name="divergence", **kwargs):
        super().__init__(name=name, **kwargs)
        self.temperature = check_positive(temperature, "temperature", schedule=False)

    def compare(self, student, teacher):
        return kl_from_logits(student, teacher, self.temperature)

    def get_config(self):
        return {**super().get_config(), "temperature": self.temperature}
