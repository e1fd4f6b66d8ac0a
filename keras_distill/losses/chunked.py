"""Losses of logits over a large vocabulary, which never hold the logits of all tokens at once."""

import keras
import tensorflow as tf
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.losses.base import DistillationLoss, shapes_match
from keras_distill.losses.maths import build_wrapped, compare_logits, float32, wrap
from keras_distill.models.lm_head import LMHead
from keras_distill.models.masking import mean_over_positions
from keras_distill.models.taps import find_layer


def in_chunks(function, rows, weights, others, tokens):
    """A function of rows, computed for one chunk of them at a time; its gradient likewise.

    The backward pass computes each chunk once more, since its logits are gone by then. What that takes is in part made
    up for: a chunk's numbers come out of the cache, those of all rows from main memory.

    Args:
        function: `function(rows, weights, others)`, of shape `[chunk]`; each row must be computed on its own.
        rows: Shape `[rows, ...]`; the gradient reaches it.
        weights: List of tensors; it reaches these too.
        others: Tuple of tensors of shape `[rows, ...]`, without gradient.
        tokens: How many rows at most are one chunk. All are equally large, but for zeros behind the last row.

    Returns:
        Shape `[rows]`.

    Reference:
        Hsu et al., 2024, https://arxiv.org/abs/2410.10989, and Wijmans et al., ICLR 2025,
        https://arxiv.org/abs/2411.09009, on whose idea it is: no logits in memory, neither on the way back.
    """
    count = ops.shape(rows)[0]
    chunks = -(-count // tokens)
    chunks = max(chunks, 1) if isinstance(chunks, int) else ops.maximum(chunks, 1)
    size = -(-count // chunks)

    def cut(tensor):
        padding = ops.zeros((chunks * size - count, *tensor.shape[1:]), tensor.dtype)
        return ops.reshape(ops.concatenate([tensor, padding]), (chunks, size, *tensor.shape[1:]))

    others = tuple(ops.stop_gradient(cut(tensor)) for tensor in others)

    @tf.custom_gradient
    def values(rows, *weights):
        def backward(upstream):
            def add(index, of_rows, sums):
                chunk, rest = rows[index], tuple(tensor[index] for tensor in others)
                with tf.GradientTape() as tape:
                    tape.watch([chunk, *weights])
                    value = function(chunk, weights, rest)
                # The last chunk may hold rows that are none; their upstream gradient is 0.
                gradient, *gradients = tape.gradient(
                    value, [chunk, *weights], upstream[index], unconnected_gradients=tf.UnconnectedGradients.ZERO
                )
                sums = tuple(total + ops.cast(part, total.dtype) for total, part in zip(sums, gradients))
                return index + 1, of_rows.write(index, gradient), sums

            state = (
                tf.constant(0),
                tf.TensorArray(rows.dtype, chunks, element_shape=rows.shape[1:]),
                tuple(ops.zeros(weight.shape, "float32") for weight in weights),
            )
            _, of_rows, sums = tf.while_loop(
                lambda index, *_: index < chunks, add, state, parallel_iterations=1, maximum_iterations=chunks
            )
            return of_rows.stack(), *(ops.cast(total, weight.dtype) for total, weight in zip(sums, weights))

        one = tf.map_fn(
            lambda chunk: function(chunk[0], weights, chunk[1]),
            (rows, others),
            fn_output_signature=tf.TensorSpec(rows.shape[1:2], "float32"),
            # One chunk at a time, or there would be several in memory.
            parallel_iterations=1,
        )
        return one, backward

    return ops.reshape(values(cut(rows), *weights), (-1,))[:count]


@keras.saving.register_keras_serializable("keras_distill")
class Chunked(DistillationLoss):
    """Another loss, of logits that are made for some tokens at a time, forgotten, and made again for the gradient.

    ```python
    student_body, teacher_body = HiddenStates(student), HiddenStates(teacher)
    distiller = Distiller(student=student_body, teacher=teacher_body, terms=[Term(Chunked(KLDivergence(2.0), "logits", "logits"))])
    distiller.compile("adam", ChunkedCrossentropy("logits"))
    ```

    The term taps hidden states, not logits; the layers that make logits of them are the models' own. The student's is
    trained. Value and gradient are those of the loss itself. It pays where logits fill the memory: 8 texts of 128
    tokens and 32,000 words are 131 MB, and a loss and its gradient hold them a dozen times or more.

    Args:
        loss: A loss of logits that compares each position on its own: KLDivergence, ReverseKL, JensenShannon,
            TotalVariation, LogitMSE, DecoupledKD, BinaryKD, TopK, or a LogitStandardization of one of these.
            Defaults to what `KLDivergence(temperature=1.0)` does.
        student_layer: The path of the layer that makes logits of the student's hidden states: a `Dense`, or an
            `Embedding` for tied weights. None if the tap gives logits.
        teacher_layer: Likewise, in the teacher; it stays as it is. None for logits, as from a `CachedTeacher`.
        tokens: How many tokens, all texts counted together, are one chunk. Default 64.

    Raises:
        ValueError: For a loss that compares the examples of a batch with one another; when the `Distiller` is made, for
            a layer that is not there, does not take the hidden states or ends in a softmax, and for vocabularies of
            two sizes.

    Reference:
        See `in_chunks`.
    """

    def __init__(self, loss=None, student_layer=None, teacher_layer=None, tokens=64, **kwargs):
        super().__init__(**kwargs)
        wrap(self, loss)
        if loss is not None and not loss.pointwise:
            raise ValueError(
                f"Chunked takes a loss that compares each position on its own, such as KLDivergence(). "
                f"{type(loss).__name__} needs them all at once."
            )
        self.student_layer = student_layer
        self.teacher_layer = teacher_layer
        self.tokens = _whole(tokens)
        # Whoever wraps this one, or refuses the output of a softmax, must know what it is given.
        self.logits = student_layer is None and teacher_layer is None
        self._student, self._teacher = LMHead(), LMHead()

    def connect(self, student, teacher):
        if self.student_layer is not None:
            self._student = LMHead(find_layer(student, self.student_layer))
        if self.teacher_layer is not None:
            self._teacher = LMHead(teacher.find_layer(self.teacher_layer))

    def build_from_config(self, config):
        """Nothing: a loss out of a file knows no layers yet."""

    def build(self, student_shape, teacher_shape):
        student, teacher = self._student.shape(student_shape), self._teacher.shape(teacher_shape)
        if student[-1] != teacher[-1]:
            raise ValueError(
                f"The student's vocabulary has {student[-1]} words, the teacher's {teacher[-1]}: layer "
                f"'{self.student_layer}' makes {student} of {student_shape}, '{self.teacher_layer}' {teacher} of "
                f"{teacher_shape}. Give both the same words in the same order."
            )
        build_wrapped(self, student, teacher)

    def comparable(self, student_shape, teacher_shape):
        """Positions must be alike; hidden states may differ in size, where logits are made of them."""
        until = None if self.logits else -1
        return shapes_match(student_shape[1:until], teacher_shape[1:until])

    def compare(self, student, teacher, batch):
        student, teacher = float32(student, teacher)
        shape, positions = ops.shape(student)[:-1], len(student.shape) - 1
        trained, fixed = self._student.weights()
        teachers = [[ops.stop_gradient(weight) for weight in group] for group in self._teacher.weights()]
        step = ops.convert_to_tensor(batch.step)
        others = [teacher, *([ops.convert_to_tensor(batch.labels)] if self.needs_labels else [])]

        def values(student, trained, others):
            teacher, *labels = others
            student = self._student.logits(student, trained, fixed)
            teacher = ops.stop_gradient(self._teacher.logits(teacher, *teachers))
            # Each token is an example of its own.
            return compare_logits(self.loss, student, teacher, Batch(None, *labels, step=step), temperature=1.0)

        rows = ops.reshape(student, (-1, student.shape[-1]))
        others = tuple(ops.reshape(tensor, (-1, *tensor.shape[positions:])) for tensor in others)
        result = ops.reshape(in_chunks(values, rows, trained, others, self.tokens), shape)
        return mean_over_positions(result, batch.position_weight)

    def get_config(self):
        settings = {key: getattr(self, key) for key in ("student_layer", "teacher_layer", "tokens")}
        return {**super().get_config(), "loss": keras.saving.serialize_keras_object(self.loss), **settings}


@keras.saving.register_keras_serializable("keras_distill")
class ChunkedCrossentropy(keras.losses.Loss):
    """Sparse categorical cross-entropy of hidden states, for `compile`; the labels' counterpart of `Chunked`.

    Its layer is one of the model that is compiled, in which it is trained and with which it is saved. Weights, masks
    and means are those of any Keras loss.

    Args:
        layer: The path of the layer of the student that makes logits of the hidden states, for a `Distiller`'s
            `compile`; or the layer itself, for any model's. A `Dense`, or an `Embedding` for tied weights.
        tokens: How many tokens, all texts counted together, are one chunk. Default 64.

    Call arguments:
        y_true: Word numbers, shape `[batch, tokens]`; -1, for none, costs nothing.
        y_pred: Hidden states, shape `[batch, tokens, dim]`.

    Returns:
        Nats, reduced as `reduction` says.

    Raises:
        ValueError: For something that is neither path nor built layer; when it is compiled, for a layer that is not
            there, does not take the hidden states or ends in a softmax.
    """

    def __init__(self, layer, tokens=64, name="chunked_crossentropy", **kwargs):
        super().__init__(name=name, **kwargs)
        named, built = isinstance(layer, str), isinstance(layer, keras.layers.Layer) and layer.built
        if not (named or built):
            raise ValueError(
                "ChunkedCrossentropy takes the path of the layer that makes the logits, or the layer itself once it is "
                f"built. Received: {layer!r}"
            )
        self.layer = layer if named else layer.name
        self.tokens = _whole(tokens)
        # Inside another object, or Keras would write the layer's weights a second time.
        self.vocabulary = None if named else LMHead(layer)

    def connect(self, student, hidden_shape):
        """Looks up the layer, and checks that it takes hidden states of this shape."""
        self.vocabulary = self.vocabulary or LMHead(find_layer(student, self.layer))
        self.vocabulary.shape(hidden_shape)

    def call(self, y_true, y_pred):
        if self.vocabulary is None:
            raise ValueError(
                f"ChunkedCrossentropy has only the name of its layer, '{self.layer}', which a Distiller looks up when "
                f"it is compiled. For another model pass the layer: model.get_layer('{self.layer}')."
            )
        trained, fixed = self.vocabulary.weights()

        def values(hidden, trained, others):
            (labels,) = others
            logits = self.vocabulary.logits(hidden, trained, fixed)
            nats = ops.sparse_categorical_crossentropy(ops.maximum(labels, 0), logits, from_logits=True)
            return ops.where(labels >= 0, nats, 0.0)

        rows = ops.reshape(y_pred, (-1, y_pred.shape[-1]))
        labels = ops.reshape(ops.cast(y_true, "int32"), (-1,))
        result = in_chunks(values, rows, trained, (labels,), self.tokens)
        return ops.reshape(result, ops.shape(y_pred)[:-1])

    def get_config(self):
        return {**super().get_config(), "layer": self.layer, "tokens": self.tokens}


def _whole(tokens):
    if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
        raise ValueError(f"`tokens` must be an integer, 1 or more. Received: {tokens!r}")
    return tokens
