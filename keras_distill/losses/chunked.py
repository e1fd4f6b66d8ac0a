"""Losses of logits over a large vocabulary, computed in chunks of tokens to save memory (fused linear KD)."""

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.data.top_k import TopKLogits, dense_logits
from keras_distill.losses.base import DistillationLoss, LogitLossWrapper
from keras_distill.losses.checks import Shape, shapes_match
from keras_distill.losses.maths import float32
from keras_distill.models.chunking import in_chunks
from keras_distill.models.layers import find_layer
from keras_distill.models.lm_head import LMHead, logits_layer
from keras_distill.models.masking import mean_over_positions
from keras_distill.types import Tensor
from keras_distill.utils.arguments import check_integer


@keras.saving.register_keras_serializable("keras_distill")
class Chunked(LogitLossWrapper):
    """Chunked distillation loss (fused linear KD): applies another loss of logits to a few tokens at a time.

    The term taps hidden states, not logits. The layers that compute logits from them belong to the models; the layer of
    the student is trained. Logits of a chunk are discarded after use; a training step computes their gradient beside
    their loss, in float16 in a second pass. Value and gradient are those of the inner loss.

    Use it where logits dominate memory: 8 texts of 128 tokens and 32,000 words have logits of 131 MB, and a loss and
    its gradient hold them a dozen times or more.

    Args:
        loss: Inner loss of logits that compares each position independently: `KLDivergence`, `ReverseKL`,
            `JensenShannon`, `SkewKL`, `SkewReverseKL`, `AdaptiveKL`, `TotalVariation`, `LogitMSE`, `DecoupledKD`,
            `BinaryKD`, `TopK`, `AcceptanceLikelihood`, `UniversalLogitDistillation`, `HybridLogitDistillation`, or a
            `LogitStandardization` of one of these. Defaults to None: the loss of `KLDivergence(temperature=1.0)`.
        student_layer: Path of the layer that computes logits from the student's hidden states: a `Dense`, or an
            `Embedding` for tied weights. Defaults to None: the last layer of a `HiddenStates` model; the tap of any
            other student returns logits.
        teacher_layer: Path of the layer that computes logits from the teacher's hidden states. It is not trained.
            Defaults to None: the last layer of a `HiddenStates` model; the tap of any other teacher returns logits, as
            with a `CachedTeacher`. Top-k logits of a cache are spread to all words for the tokens of a chunk only, and
            not at all for `TopK`.
        tokens: Maximum number of tokens per chunk, counted over all texts, >= 1. A chunk's logits take
            `4 * tokens * words` bytes. Defaults to 64.
        words: Number of the first words of both vocabularies that are compared, >= 1, for vocabularies that differ by
            padding at their end. The layers compute these logits only. Defaults to None: all words.
        **kwargs: Arguments of `DistillationLoss`, such as `name`.

    Raises:
        ValueError: If `loss` is not a loss of logits or compares several positions or examples, or if `tokens` is not
            an integer >= 1. When the `Distiller` is created: if a layer does not exist, does not accept the hidden
            states or ends in a softmax, if the inner loss cannot compare vocabularies of these sizes, or if one of them
            has fewer than `words` words.

    Reference:
        Hsu et al., 2024, https://arxiv.org/abs/2410.10989; Wijmans et al., ICLR 2025, https://arxiv.org/abs/2411.09009.

    Example:
    >>> term = Term(Chunked(KLDivergence(2.0)))
    >>> distiller = Distiller(student=HiddenStates(student), teacher=HiddenStates(teacher), terms=[term])
    >>> distiller.compile("adam", ChunkedCrossentropy())
    """

    # The taps are hidden states by default. An instance without layers sets True, until it is connected to models of
    # hidden states.
    logits = False
    default_temperature = 1.0

    def __init__(
        self,
        loss: DistillationLoss | None = None,
        student_layer: str | None = None,
        teacher_layer: str | None = None,
        tokens: int = 64,
        words: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(loss, **kwargs)
        if loss is not None and not loss.pointwise:
            raise ValueError(
                "Chunked takes a loss that compares each position independently and has no weights, such as "
                f"`Chunked(KLDivergence())`. Received: a {type(loss).__name__}"
            )
        self.student_layer = student_layer
        self.teacher_layer = teacher_layer
        self.tokens = check_integer(tokens, "tokens")
        self.words = check_integer(words, "words", optional=True)
        # With hidden states a `Term` must accept any activation, and no other loss can wrap this one.
        self.logits = student_layer is None and teacher_layer is None
        self.takes_top_k = teacher_layer is None
        self._student, self._teacher = LMHead(words=self.words), LMHead(words=self.words)

    def connect(self, student: keras.Model, teacher: Any) -> None:
        path, other = self.student_layer, self.teacher_layer
        student_layer = logits_layer(student) if path is None else find_layer(student, path)
        teacher_layer = teacher.logits_layer if other is None else teacher.find_layer(other)
        self._student, self._teacher = LMHead(student_layer, self.words), LMHead(teacher_layer, self.words)
        self.logits = student_layer is None and teacher_layer is None
        self.takes_top_k = teacher_layer is None

    def build_from_config(self, config: dict[str, Any]) -> None:
        """Do nothing: a loss that was loaded from a file is built after `connect`, which looks up its layers."""

    def build(self, student_shape: Shape, teacher_shape: Shape) -> None:
        student_logits, teacher_logits = self._student.shape(student_shape), self._teacher.shape(teacher_shape)
        matches = shapes_match if self.loss is None else self.loss.comparable
        if not matches(student_logits, teacher_logits):
            sides = (self._student, student_shape, "student"), (self._teacher, teacher_shape, "teacher")
            raise ValueError(
                f"The student's vocabulary has {student_logits[-1]} words, the teacher's {teacher_logits[-1]}: "
                f"{' '.join(_described(*side) for side in sides)} Use models with the same words in the same order; "
                "`Chunked(words=n)` compares the first n words, for vocabularies that differ by padding."
            )
        super().build(student_logits, teacher_logits)

    def comparable(self, student_shape: Shape, teacher_shape: Shape) -> bool:
        """Return True if the positions match. Hidden states may differ in size, and vocabularies with `words`."""
        stop = None if self.logits and self.words is None else -1
        return shapes_match(student_shape[1:stop], teacher_shape[1:stop])

    def compare(self, student: Tensor, teacher: Tensor | TopKLogits, batch: Batch) -> Tensor:
        (student,) = float32(student)
        shape, rank = ops.shape(student)[:-1], len(student.shape) - 1
        trained, fixed = self._student.weights()
        teacher_weights = [[ops.stop_gradient(weight) for weight in group] for group in self._teacher.weights()]
        step = ops.convert_to_tensor(batch.step)
        parts = teacher.parts if isinstance(teacher, TopKLogits) else float32(teacher)
        others = [*parts, *([ops.convert_to_tensor(batch.labels)] if self.needs_labels else [])]

        def teacher_logits(parts):
            if not isinstance(teacher, TopKLogits):
                return ops.stop_gradient(self._teacher.logits(*parts, *teacher_weights))
            logits = teacher.with_parts(*parts)
            logits = logits if self.words is None else logits.first(self.words)
            takes_top_k = self.loss is not None and self.loss.takes_top_k
            return logits if takes_top_k else dense_logits(logits)

        def chunk_loss(student, trained, others):
            teacher, labels = teacher_logits(others[: len(parts)]), others[len(parts) :]
            student = self._student.logits(student, trained, fixed)
            # Each token is passed as an example without positions.
            return self.compare_inner(student, teacher, Batch(None, *labels, step=step))

        rows = ops.reshape(student, (-1, student.shape[-1]))
        others = tuple(ops.reshape(tensor, (-1, *tensor.shape[rank:])) for tensor in others)
        scale = self._position_factors(shape, batch)
        values = ops.reshape(in_chunks(chunk_loss, rows, trained, others, self.tokens, scale), shape)
        return mean_over_positions(values, batch.position_weight)

    def _position_factors(self, shape, batch):
        """Return the factor of each token in a step's loss, but for a common one; None where they are not used."""
        layer = self._student.layer
        # A gradient in float16 must pass the layer multiplied by the scale of the loss, which is not known here.
        if batch.example_weight is None or layer is None or layer.compute_dtype == "float16":
            return None
        with tf.GradientTape() as tape:
            values = ops.zeros(shape)
            tape.watch(values)
            total = ops.sum(mean_over_positions(values, batch.position_weight) * batch.example_weight)
        return ops.reshape(tape.gradient(total, values), (-1,))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "student_layer": self.student_layer,
            "teacher_layer": self.teacher_layer,
            "tokens": self.tokens,
            "words": self.words,
        }


def _described(head, shape, side):
    """Return a sentence on how the logits of a side are made, for errors."""
    if head.layer is not None:
        return f"Layer '{head.layer.name}' maps {shape} to {head.shape(shape)}."
    return (
        f"The {side}'s tap returns {shape}, which was taken for logits: for hidden states, pass `{side}_layer=` or a "
        f"HiddenStates model as the {side}."
    )
