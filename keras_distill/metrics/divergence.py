"""KL divergence of the student's predictions from the teacher's."""

from typing import Any

import keras

from keras_distill.losses.class_masks import finite_logits
from keras_distill.losses.softened import kl_from_logits
from keras_distill.metrics.mean import MeanMetric
from keras_distill.types import Tensor
from keras_distill.utils.arguments import check_number


@keras.saving.register_keras_serializable("keras_distill")
class TeacherDivergence(MeanMetric):
    """Mean KL divergence of the student's class probabilities from the teacher's (fidelity).

    ```
    mean of KL(softmax(z_t / T) || softmax(z_s / T))
    ```

    The unit is nats; 0 means equal probabilities. The metric lacks the factor `T^2` of the loss `KLDivergence`, and its
    temperature is independent of the loss, so runs with different loss temperatures stay comparable.

    Args:
        temperature: Softmax temperature, > 0. 1 compares the probabilities as the models output them. Defaults to 1.0.
        name: Name in the logs. Defaults to "divergence".
        **kwargs: Arguments of `DistillationMetric`: `student`, `teacher`, `mask`, `dtype`.

    Raises:
        ValueError: If `temperature` is not a finite number > 0.

    Example:

    >>> metric = TeacherDivergence()
    >>> metric.update_state([[0.0, 0.0]], [[0.0, 1.0]])
    >>> round(float(metric.result()), 4)
    0.1109

    Reference:
        Stanton et al., NeurIPS 2021, https://arxiv.org/abs/2106.05945
    """

    _direction = "down"

    def __init__(self, temperature: float = 1.0, name: str = "divergence", **kwargs: Any):
        super().__init__(name=name, **kwargs)
        self.temperature = check_number(temperature, "temperature", above=0)

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        return kl_from_logits(*finite_logits(student, teacher), self.temperature)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "temperature": self.temperature}
