"""Hybrid universal logit distillation (GOLD), for models whose vocabularies overlap."""

import collections
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_distill.losses.base import SoftenedLoss
from keras_distill.losses.checks import Shape, check_classes, shapes_match
from keras_distill.losses.class_masks import finite_logits
from keras_distill.losses.distributions import kl_to_mixture, sorted_distance
from keras_distill.losses.softened import kl_from_probabilities
from keras_distill.types import ScheduleLike, Tensor
from keras_distill.utils.arguments import check_integer, check_number

_SIDES = ("student", "teacher")


def hybrid_logit_distillation(
    student: Tensor,
    teacher: Tensor,
    shared: Sequence[tuple[int, int]],
    beta: float = 0.5,
    shared_weight: float | None = None,
) -> Tensor:
    """Compute a divergence over the shared words plus the L1 distance of the sorted probabilities of the other words.

    ```
    loss = w * D(p_t[shared], p_s[shared]) + (1 - w) * sum_k |sorted(p_t[rest])[k] - sorted(p_s[rest])[k]|
    D    = beta * KL(p_t || m) + (1 - beta) * KL(p_s || m),  m = beta * p_t + (1 - beta) * p_s
    KL(a || b) = sum_c a[c] * (log a[c] - log b[c]) + b[c] - a[c];  beta = 0: D = KL(p_t || p_s), beta = 1: reversed
    ```

    The probabilities of the shared words do not sum to 1. Therefore the divergences include the difference of the sums,
    `b - a`. Without it, as in published code, the value at a `beta` of 0 or 1 may be negative, and the teacher's
    probabilities are not its minimum.

    Args:
        student: Logarithms of probabilities, shape `[batch, positions..., student words]`.
        teacher: Logarithms of probabilities, shape `[batch, positions..., teacher words]`.
        shared: Pairs `(student index, teacher index)` of the words that both vocabularies have.
        beta: Weight of the teacher in the mixture, 0 to 1. Defaults to 0.5.
        shared_weight: `w`, 0 to 1. Defaults to None: the fraction of the teacher's words that are shared.

    Returns:
        Shape `[batch, positions...]`.

    Reference:
        No paper. Hugging Face's TRL has the loss as GOLD; it extends Boizard et al., TMLR 2025,
        https://arxiv.org/abs/2402.12030
    """
    student_ids, teacher_ids = ([pair[side] for pair in shared] for side in (0, 1))
    weight = len(shared) / teacher.shape[-1] if shared_weight is None else shared_weight
    rest = sorted_distance(*(ops.exp(_without(*x)) for x in ((student, student_ids), (teacher, teacher_ids))))
    if not shared:
        return (1.0 - weight) * rest
    student, teacher = ops.take(student, student_ids, axis=-1), ops.take(teacher, teacher_ids, axis=-1)
    q, p, ratio = ops.exp(student), ops.exp(teacher), teacher - student
    # A word that only one model masks: see `class_masks`.
    ratio = ops.where(ops.abs(ratio) < 1e10, ratio, ops.clip(ratio, -100.0, 100.0))
    if beta == 0:
        divergence = kl_from_probabilities(p, q, ratio)
    elif beta == 1:
        divergence = kl_from_probabilities(q, p, -ratio)
    else:
        parts = kl_to_mixture(p, q, ratio, beta), kl_to_mixture(q, p, -ratio, 1.0 - beta)
        divergence = beta * parts[0] + (1.0 - beta) * parts[1]
    return weight * divergence + (1.0 - weight) * rest


def _without(tensor, indices):
    """Return the entries of the last axis at all other indices."""
    left = sorted(set(range(tensor.shape[-1])).difference(indices))
    return ops.take(tensor, ops.convert_to_tensor(left, "int32"), axis=-1)


@keras.saving.register_keras_serializable("keras_distill")
class HybridLogitDistillation(SoftenedLoss):
    """Hybrid universal logit distillation loss (GOLD), averaged over positions. The vocabularies may differ.

    Takes logits. Words that both vocabularies have are compared one by one, the others by their sorted probabilities.
    The positions must correspond, as in `UniversalLogitDistillation`. `language.shared_words` finds the shared words.

    Args:
        shared: Pairs `(student index, teacher index)` of the words that both vocabularies have. Each index may occur
            once per side. Defaults to `()`: the loss of `UniversalLogitDistillation`.
        beta: Weight of the teacher in the mixture of the divergence, 0 to 1, as in `JensenShannon`. Defaults to 0.5.
        shared_weight: Weight of the divergence, 0 to 1; the sorted distance has the rest. Defaults to None: the
            fraction of the teacher's words that are shared.
        temperature: Softmax temperature, > 0, a number or a schedule. 1 is typical. The loss is multiplied by it.
            Defaults to 1.0.
        **kwargs: Arguments of `DistillationLoss`, such as `name`.

    Raises:
        ValueError: If an argument is invalid; when built, for logits of a single class, or if an index of `shared`
            exceeds a vocabulary.

    Reference:
        See `hybrid_logit_distillation`.

    Example:
    >>> words = {word: i for i, word in enumerate(["the", "cat", "sat"])}
    >>> teacher_words = {word: i for i, word in enumerate(["sat", "the", "dog", "ran"])}
    >>> shared = [(i, teacher_words[word]) for word, i in words.items() if word in teacher_words]
    >>> term = Term(HybridLogitDistillation(shared), over="tokens")
    """

    compares_vocabularies = True

    def __init__(
        self,
        shared: Sequence[tuple[int, int]] = (),
        beta: float = 0.5,
        shared_weight: float | None = None,
        temperature: ScheduleLike = 1.0,
        **kwargs: Any,
    ):
        super().__init__(temperature, **kwargs)
        self.shared = _checked_pairs(shared)
        self.beta = check_number(beta, "beta", at_least=0, at_most=1)
        if shared_weight is not None:
            shared_weight = check_number(shared_weight, "shared_weight", at_least=0, at_most=1)
        self.shared_weight = shared_weight

    def build(self, student_shape: Shape, teacher_shape: Shape) -> None:
        for side, shape in enumerate((student_shape, teacher_shape)):
            check_classes("HybridLogitDistillation", shape, shape)
            largest = max((pair[side] for pair in self.shared), default=0)
            if largest >= shape[-1]:
                raise ValueError(
                    f"`shared` has the {_SIDES[side]} index {largest}, but the {_SIDES[side]}'s logits have "
                    f"{shape[-1]} words: shape {shape}. Pairs are (student index, teacher index)."
                )

    def comparable(self, student_shape: Shape, teacher_shape: Shape) -> bool:
        """Return True if the positions match. The numbers of classes may differ."""
        return shapes_match(student_shape[1:-1], teacher_shape[1:-1])

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float | Tensor) -> Tensor:
        logits = finite_logits(student, teacher)
        student, teacher = (ops.log_softmax(x / temperature, axis=-1) for x in logits)
        return temperature * self.distance(student, teacher)

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        return hybrid_logit_distillation(student, teacher, self.shared, self.beta, self.shared_weight)

    def get_config(self) -> dict[str, Any]:
        config = {"shared": self.shared, "beta": self.beta, "shared_weight": self.shared_weight}
        return {**super().get_config(), **config}


def _checked_pairs(shared):
    """Return the pairs as a list of lists, which a saved config keeps."""
    pairs = [[check_integer(index, "shared", at_least=0) for index in pair] for pair in shared]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError("`shared` must be pairs (student index, teacher index), such as [(0, 7), (1, 3)].")
    for side, indices in zip(_SIDES, zip(*pairs)):
        index, count = collections.Counter(indices).most_common(1)[0]
        if count > 1:
            raise ValueError(f"`shared` has the {side} index {index} in {count} pairs. Keep one of them.")
    return pairs
