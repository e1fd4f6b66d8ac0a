"""Flow of the solution procedure (FSP): what happens between two layers."""

import keras
from keras import ops

from keras_distill.losses.base import DistillationLoss, shapes_match
from keras_distill.losses.checks import check_positions
from keras_distill.losses.maths import as_pair, as_shape_pair, float32, match_resolutions
from keras_distill.models.masking import expand_to_rank


def fsp(student_first, student_second, teacher_first, teacher_second, position_weight=None):
    """Squared difference of the products between the channels of one layer and those of another.

    ```
    loss = 1/(channels_1 * channels_2) * sum_cd (G_s[c, d] - G_t[c, d])^2
    G[c, d] = 1/positions * sum_i f_1[i, c] * f_2[i, d]
    ```

    The two layers of a network may differ in size: the larger is averaged down to the smaller. This and the mean over
    `c` and `d`, where the paper has a sum, follow RepDistiller; torchdistill takes the larger's maxima, and norms. The
    networks may differ in size, not in channels.

    Args:
        student_first: Features, shape `[batch, positions..., channels_1]`.
        student_second: Features of a later layer, `[batch, positions..., channels_2]`.
        teacher_first: Features with `channels_1` channels.
        teacher_second: Features with `channels_2` channels.
        position_weight: As in a `Batch`; it counts in each network whose first layer has the student's positions.

    Returns:
        The fourth power of the features' unit, shape `[batch]`.

    Reference:
        Yim et al., CVPR 2017, "A Gift from Knowledge Distillation"
    """
    same = shapes_match(student_first.shape[1:-1], teacher_first.shape[1:-1])
    student = _flow(student_first, student_second, position_weight)
    teacher = _flow(teacher_first, teacher_second, position_weight if same else None)
    return ops.mean(ops.square(student - teacher), axis=(1, 2))


def _flow(first, second, position_weight):
    first, second = float32(first, second)
    weight = ops.ones_like(first[..., :1])
    if position_weight is not None:
        weight = weight * expand_to_rank(ops.cast(position_weight, "float32"), len(first.shape))
    weight, _ = match_resolutions(weight, second)
    first, second = match_resolutions(first, second)
    first, second, weight = (_flat(features) for features in (first * weight, second, weight))
    return ops.divide_no_nan(ops.matmul(ops.swapaxes(first, 1, 2), second), ops.sum(weight, axis=1, keepdims=True))


def _flat(features):
    shape = ops.shape(features)
    return ops.reshape(features, (shape[0], -1, shape[-1]))


@keras.saving.register_keras_serializable("keras_distill")
class FSP(DistillationLoss):
    """`fsp` as a loss for a `Term`. Unlike numbers of channels need a head.

    Compares pairs of activations, `(first, second)`. A single activation is paired with itself: then it is the layer's
    own Gram matrix that the student imitates.
    """

    takes_several = True

    def comparable(self, student_shape, teacher_shape):
        pairs = zip(as_shape_pair(student_shape), as_shape_pair(teacher_shape))
        return all(shapes_match(student[-1:], teacher[-1:]) for student, teacher in pairs)

    def build(self, student_shape, teacher_shape):
        for shapes in zip(as_shape_pair(student_shape), as_shape_pair(teacher_shape)):
            check_positions("FSP", *shapes)

    def compare(self, student, teacher, batch):
        return fsp(*as_pair(student), *as_pair(teacher), batch.position_weight)
