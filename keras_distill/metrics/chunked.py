"""Metrics of logits over a large vocabulary, computed from hidden states in chunks of tokens."""

from typing import Any

import keras
from keras import ops

from keras_distill.metrics.mean import MeanMetric
from keras_distill.models.chunking import in_chunks
from keras_distill.models.layers import find_layer
from keras_distill.models.lm_head import LMHead, logits_layer
from keras_distill.models.specs import Spec
from keras_distill.types import Tensor
from keras_distill.utils.arguments import check_integer


@keras.saving.register_keras_serializable("keras_distill")
class ChunkedMetric(MeanMetric):
    """Metric of logits, computed from hidden states a few tokens at a time: the counterpart of `losses.Chunked`.

    Its value is that of the inner metric on the logits of all tokens, which are never in memory together.

    Args:
        metric: Inner metric: `Agreement`, `TeacherDivergence`, `Acceptance`, `AcceptedLength` or your `MeanMetric`. Its
            taps return hidden states.
        student_layer: Path of the layer that computes logits from the student's hidden states: a `Dense`, or an
            `Embedding` for tied weights. Defaults to None: the last layer of a `HiddenStates` model; the tap of any
            other student returns logits.
        teacher_layer: Path of the layer that computes logits from the teacher's hidden states. Defaults to None: the
            last layer of a `HiddenStates` model; the tap of any other teacher returns logits, as with a
            `CachedTeacher`.
        tokens: Maximum number of tokens per chunk, >= 1. Defaults to 64.
        name: Name in the logs. Defaults to the name of the inner metric.
        dtype: Dtype of the state. Defaults to "float32".

    Raises:
        ValueError: If `metric` is not a `MeanMetric` of logits, or `tokens` is not an integer >= 1. When compiled: if a
            layer does not exist, does not accept the hidden states or ends in a softmax, or if the sizes of the
            vocabularies differ.

    Example:
    >>> metrics = [ChunkedMetric(Agreement()), Perplexity()]
    >>> terms = [Term(Chunked(KLDivergence()))]
    >>> distiller = Distiller(student=HiddenStates(student), teacher=HiddenStates(teacher), terms=terms)
    >>> distiller.compile("adam", ChunkedCrossentropy(), metrics=metrics)
    """

    logits = False

    def __init__(
        self,
        metric: MeanMetric,
        student_layer: str | None = None,
        teacher_layer: str | None = None,
        tokens: int = 64,
        name: str | None = None,
        dtype: Any = None,
    ):
        if not (isinstance(metric, MeanMetric) and metric.logits):
            raise ValueError(
                f"ChunkedMetric takes a metric of logits, such as `ChunkedMetric(Agreement())`. Received: {metric!r}"
            )
        super().__init__(metric.student, metric.teacher, metric.mask, name or metric.name, dtype)
        self.metric = metric
        self.student_layer = student_layer
        self.teacher_layer = teacher_layer
        self.tokens = check_integer(tokens, "tokens")
        self._student, self._teacher = LMHead(), LMHead()
        # A tap of logits returns the input of a final softmax.
        self.logits = student_layer is None and teacher_layer is None

    @property
    def _direction(self):
        return self.metric._direction

    def connect(self, student: keras.Model, teacher: Any) -> None:
        path, other = self.student_layer, self.teacher_layer
        self._student = LMHead(logits_layer(student) if path is None else find_layer(student, path))
        self._teacher = LMHead(teacher.logits_layer if other is None else teacher.find_layer(other))
        self.logits = self._student.layer is None and self._teacher.layer is None

    def check(self, student: Spec, teacher: Spec) -> None:
        super().check(student, teacher)
        self._check_classes(student.shape, teacher.shape)

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        student_weights, teacher_weights = self._student.weights(), self._teacher.weights()

        def compare_chunk(student, _, others):
            (teacher,) = others
            student = self._student.logits(student, *student_weights)
            return self.metric.compare(student, self._teacher.logits(teacher, *teacher_weights))

        rows, others = (ops.reshape(x, (-1, x.shape[-1])) for x in (student, teacher))
        return ops.reshape(in_chunks(compare_chunk, rows, [], (others,), self.tokens), ops.shape(student)[:-1])

    def combine(self, values: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        return self.metric.combine(values, weight)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        return {
            "name": config["name"],
            "dtype": config["dtype"],
            "metric": keras.saving.serialize_keras_object(self.metric),
            "student_layer": self.student_layer,
            "teacher_layer": self.teacher_layer,
            "tokens": self.tokens,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ChunkedMetric":
        return cls(keras.saving.deserialize_keras_object(config.pop("metric")), **config)

    def _check_classes(self, student_shape, teacher_shape):
        for path, head in ((self.student_layer, self._student), (self.teacher_layer, self._teacher)):
            if path is not None and head.layer is None:
                raise ValueError(
                    f"Metric '{self.name}' has only the path '{path}' of its layer. `Distiller.compile` looks it up; "
                    "elsewhere, call `metric.connect(student, keras_distill.teachers.ModelTeacher(teacher))` first."
                )
        super()._check_classes(self._student.shape(student_shape), self._teacher.shape(teacher_shape))
