"""Acceptance rate in speculative decoding."""

from typing import Any

import keras

from keras_distill.losses.distributions import acceptance_rate
from keras_distill.metrics.mean import MeanMetric
from keras_distill.types import Tensor
from keras_distill.utils.arguments import check_number


@keras.saving.register_keras_serializable("keras_distill")
class Acceptance(MeanMetric):
    """Mean acceptance rate of a student that drafts tokens for its teacher (speculative decoding).

    ```
    rate = mean over tokens of sum_c min(p_t[c], p_s[c]),  p = softmax(logits / T)
    ```

    The value is between 0 and 1; it is 1 minus the total variation distance. The tokens are those of the batch, under
    teacher forcing: texts that the teacher generated give the rate of decoding. The student draws its drafts; the
    `SpeculativeSampler` of KerasHub 0.32 takes the most probable token, which `temperature=0` measures if it has no
    `base_sampler`.

    Args:
        temperature: Softmax temperature of decoding, >= 0. 0 is greedy decoding: a token is accepted where both models
            have the same most probable one. Defaults to 1.0.
        name: Name in the logs. Defaults to "acceptance".
        **kwargs: Arguments of `DistillationMetric`: `student`, `teacher`, `mask`, `dtype`.

    Raises:
        ValueError: If `temperature` is not a finite number >= 0.

    Example:

    >>> metric = Acceptance()
    >>> metric.update_state(np.log([[0.5, 0.5]]), np.log([[0.75, 0.25]]))
    >>> float(metric.result())
    0.75

    Reference:
        Leviathan, Kalman and Matias, ICML 2023, https://arxiv.org/abs/2211.17192
    """

    _direction = "up"

    def __init__(self, temperature: float = 1.0, name: str = "acceptance", **kwargs: Any):
        super().__init__(name=name, **kwargs)
        self.temperature = check_number(temperature, "temperature", at_least=0)

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        return acceptance_rate(student, teacher, self.temperature)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "temperature": self.temperature}
