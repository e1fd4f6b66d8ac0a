"""Flow of the solution procedure (FSP)."""

import keras
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.checks import as_shape_pair, check_positions, shapes_match
from keras_distill.losses.maths import as_pair, float32, match_resolutions
from keras_distill.models.masking import expand_to_rank
from keras_distill.types import Structure, Tensor


def fsp(
    student_first: Tensor,
    student_second: Tensor,
    teacher_first: Tensor,
    teacher_second: Tensor,
    position_weight: Tensor | None = None,
) -> Tensor:
    """Compute the squared difference of the FSP matrices of student and teacher.

    ```
    loss = 1/(channels_1 * channels_2) * sum_cd (G_s[c, d] - G_t[c, d])^2
    G[c, d] = 1/positions * sum_i f_1[i, c] * f_2[i, d]
    ```

    The two layers of one network may differ in height and width: the larger feature map is average-pooled to the
    smaller size. This, and the mean over `c` and `d` instead of the paper's sum, follow RepDistiller; torchdistill uses
    max pooling and norms. Student and teacher may differ in height and width, not in channels.

    Args:
        student_first: Features, shape `[batch, positions..., channels_1]`.
        student_second: Features of a later layer, shape `[batch, positions..., channels_2]`.
        teacher_first: Features with `channels_1` channels.
        teacher_second: Features of a later layer, with `channels_2` channels.
        position_weight: Weight of each position of the first student layer, shape `[batch, positions...]`. Applied to
            the teacher if its first layer has the same positions. Defaults to None: all positions count equally.

    Returns:
        Fourth power of the features' unit, shape `[batch]`.

    Reference:
        Yim et al., CVPR 2017, "A Gift from Knowledge Distillation"
    """
    same_positions = shapes_match(student_first.shape[1:-1], teacher_first.shape[1:-1])
    student = _fsp_matrix(student_first, student_second, position_weight)
    teacher = _fsp_matrix(teacher_first, teacher_second, position_weight if same_positions else None)
    return ops.mean(ops.square(student - teacher), axis=(1, 2))


def _fsp_matrix(first, second, position_weight):
    first, second = float32(first, second)
    weight = ops.ones_like(first[..., :1])
    if position_weight is not None:
        weight = weight * expand_to_rank(ops.cast(position_weight, "float32"), len(first.shape))
    weight, _ = match_resolutions(weight, second)
    first, second = match_resolutions(first, second)
    first, second, weight = _flatten(first * weight), _flatten(second), _flatten(weight)
    return ops.divide_no_nan(ops.matmul(ops.swapaxes(first, 1, 2), second), ops.sum(weight, axis=1, keepdims=True))


def _flatten(features):
    """Reshape `[batch, positions..., channels]` to `[batch, positions, channels]`."""
    shape = ops.shape(features)
    return ops.reshape(features, (shape[0], -1, shape[-1]))


@keras.saving.register_keras_serializable("keras_distill")
class FSP(DistillationLoss):
    """Flow of the solution procedure loss (FSP).

    Compares pairs of activations, `(first, second)`, of an earlier and a later layer. One activation is paired with
    itself: the loss then compares the Gram matrices of one layer. Layers must have the same number of channels in
    student and teacher; for one activation, use a `Convolution` head where they differ. RepDistiller uses a weight of
    50, in a first phase that trains the student with this loss alone, as in the paper.

    Raises:
        ValueError: When the distiller is made, if an activation has no positions.

    Reference:
        Yim et al., CVPR 2017, "A Gift from Knowledge Distillation"

    Example:
    >>> pair = Term(FSP(), student=("stage_1", "stage_2"), teacher=("stage_1", "stage_2"), weight=50.0)
    >>> gram = Term(FSP(), student="block_2", teacher="block_4", head="auto", weight=50.0)
    """

    resizable = False
    takes_several = True

    def comparable(self, student_shape: tuple, teacher_shape: tuple) -> bool:
        pairs = zip(as_shape_pair(student_shape), as_shape_pair(teacher_shape))
        return all(shapes_match(student[-1:], teacher[-1:]) for student, teacher in pairs)

    def build(self, student_shape: tuple, teacher_shape: tuple) -> None:
        for shapes in zip(as_shape_pair(student_shape), as_shape_pair(teacher_shape)):
            check_positions("FSP", *shapes)

    def compare(self, student: Structure, teacher: Structure, batch: Batch) -> Tensor:
        return fsp(*as_pair(student), *as_pair(teacher), batch.position_weight)
