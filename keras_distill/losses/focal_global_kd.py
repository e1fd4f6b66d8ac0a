"""Focal and global knowledge distillation for detectors (FGD)."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.maths import float32
from keras_distill.models.masking import expand_to_rank
from keras_distill.models.resampling import position_size
from keras_distill.schedules import check_positive, value_at
from keras_distill.types import ScheduleLike, Tensor


def focal_global_kd(
    student: Tensor,
    teacher: Tensor,
    box_weight: Tensor,
    temperature: float | Tensor = 0.5,
    foreground: float | Tensor = 1e-3,
    background: float | Tensor = 5e-4,
    attention: float | Tensor = 5e-4,
    position_weight: Tensor | None = None,
) -> Tensor:
    """Compute the focal part of FGD: differences weighted by boxes and attention, and differences of attention.

    ```
    loss = foreground * sum_ic w_i * S_t[i] * C_t[c] * (f_s[i, c] - f_t[i, c])^2
         + background * sum_ic b_i * S_t[i] * C_t[c] * (f_s[i, c] - f_t[i, c])^2
         + attention * (sum_c |C_s[c] - C_t[c]| + sum_i |S_s[i] - S_t[i]|)
    S = positions * softmax_i(mean_c |f[i, c]| / T),  C = channels * softmax_c(mean_i |f[i, c]| / T)
    w = box_weight,  b = 1 / count of positions with w = 0 there, 0 elsewhere
    ```

    Args:
        student: Feature map after the head, shape `[batch, height, width, channels]`.
        teacher: Feature map, the same shape.
        box_weight: Result of `box_weights`, shape `[batch, height, width]`, 0 in the background.
        temperature: Temperature of the attention, > 0. Defaults to 0.5.
        foreground: Weight of the positions in boxes. Defaults to 1e-3.
        background: Weight of the other positions. Defaults to 5e-4.
        attention: Weight of the differences of attention. Defaults to 5e-4.
        position_weight: Weight of each position, shape `[batch, height, width]`. Positions of weight 0 are left out;
            other weights have no effect. Defaults to None: all positions are included.

    Returns:
        Square of the features' unit, shape `[batch]`.

    Reference:
        Yang et al., CVPR 2022, https://arxiv.org/abs/2111.11837, equations 2 to 9
    """
    student, teacher, box_weight = float32(student, teacher, box_weight)
    present = _present(position_weight, box_weight)
    box_weight = box_weight * present
    (student_positions, student_channels), (positions, channels) = (
        _attention(x, present, temperature) for x in (student, teacher)
    )
    outside = ops.cast(box_weight == 0, "float32") * present
    outside = ops.divide_no_nan(outside, ops.sum(outside, axis=(1, 2), keepdims=True))
    weight = (foreground * box_weight + background * outside) * positions
    difference = ops.sum(ops.square(student - teacher) * channels[:, None, None], axis=-1)
    changes = ops.sum(ops.abs(student_channels - channels), axis=-1)
    changes = changes + ops.sum(ops.abs(student_positions - positions), axis=(1, 2))
    return ops.sum(weight * difference, axis=(1, 2)) + attention * changes


def box_weights(boxes: Tensor, size: Sequence[int | Tensor]) -> Tensor:
    """Return weights of the positions of a feature map inside boxes: 1 / area of the smallest box, 0 outside.

    As in the authors' code, a box covers every position that it touches, and the position of its upper edge, too.

    Args:
        boxes: `[left, top, right, bottom]` as fractions of the image, shape `[batch, boxes, 4]`. A box without area,
            such as a row of padding of -1, is left out.
        size: Height and width of the feature map.

    Returns:
        Unitless, shape `[batch, height, width]`.
    """
    boxes = ops.clip(ops.cast(boxes, "float32"), 0.0, 1.0)
    height, width = size
    inside, area = [], 1.0
    for low, high, length in ((boxes[..., 1], boxes[..., 3], height), (boxes[..., 0], boxes[..., 2], width)):
        # An edge between two positions must stay there in spite of rounding.
        scale = ops.cast(length, "float32")
        first, last = ops.floor(low * scale + 1e-4)[..., None], ops.ceil(high * scale - 1e-4)[..., None]
        index = ops.cast(ops.arange(length), "float32")
        inside.append(ops.logical_and(ops.logical_and(index >= first, index <= last), (high > low)[..., None]))
        area = area * (last - first + 1.0)
    rows, columns = (ops.cast(x, "float32") for x in inside)
    weights = (rows / area)[..., :, None] * columns[..., None, :]
    return ops.max(weights, axis=1, initial=0.0)


def global_context(features: Tensor, weights: Sequence[Tensor], position_weight: Tensor | None = None) -> Tensor:
    """Return a feature map plus a transform of its attended mean, the global part of FGD (a GcBlock).

    ```
    g(f)[i] = f[i] + W_2 relu(LN(W_1 c + b_1)) + b_2,  c = sum_i softmax_i(k f[i]) f[i]
    ```

    Args:
        features: Shape `[batch, height, width, channels]`.
        weights: `k`, `W_1`, `b_1`, scale and offset of the normalization `LN`, `W_2`, `b_2`. Kernels have the shape
            `[inputs, outputs]`.
        position_weight: Weight of each position, shape `[batch, height, width]`. Positions of weight 0 are left out of
            the mean. Defaults to None: all positions are included.

    Returns:
        float32, shape `[batch, height, width, channels]`.
    """
    (features,) = float32(features)
    key, kernel_1, bias_1, scale, offset, kernel_2, bias_2 = weights
    scores = ops.squeeze(ops.matmul(features, key), axis=-1)
    context = ops.einsum("bhw,bhwc->bc", _softmax(scores, _present(position_weight, scores)), features)
    hidden = ops.matmul(context, kernel_1) + bias_1
    mean, variance = ops.moments(hidden, axes=-1, keepdims=True)
    hidden = ops.relu((hidden - mean) * ops.rsqrt(variance + 1e-5) * scale + offset)
    return features + (ops.matmul(hidden, kernel_2) + bias_2)[:, None, None]


def _attention(features, present, temperature):
    """Return the attention of the positions and of the channels, shapes `[batch, height, width]` and `[batch, c]`."""
    magnitude = ops.abs(features)
    count = ops.sum(present, axis=(1, 2), keepdims=True)
    positions = count * _softmax(ops.mean(magnitude, axis=-1) / temperature, present)
    mean = ops.divide_no_nan(ops.sum(magnitude * present[..., None], axis=(1, 2)), count[..., 0])
    return positions, features.shape[-1] * ops.softmax(mean / temperature, axis=-1)


def _softmax(scores, present):
    """Return the softmax over height and width, without absent positions."""
    shape = ops.shape(scores)
    flat = ops.reshape(ops.where(present > 0, scores, -1e30), (shape[0], -1))
    return ops.reshape(ops.softmax(flat, axis=-1), shape)


def _present(position_weight, like):
    """Return 1 for each position that is included, 0 for the others, float32 of the shape of `like`."""
    if position_weight is None:
        return ops.ones_like(like)
    present = ops.cast(expand_to_rank(position_weight, 3) > 0, "float32")
    return ops.broadcast_to(present, ops.shape(like))


@keras.saving.register_keras_serializable("keras_distill")
class FocalGlobalKD(DistillationLoss):
    """Focal and global knowledge distillation loss (FGD) for detectors.

    Make a term for each level of the feature pyramid. The focal part compares the positions inside and outside of boxes
    separately, weighted by the teacher's attention; without boxes, all positions are background. The global part
    compares both feature maps plus a transform of their mean, whose weights train with the student. Use a `Convolution`
    head where the channels differ. The loss is a sum over positions, as the authors' weights assume.

    Args:
        boxes: Boxes of each batch, `[left, top, right, bottom]` as fractions of the image, shape `[batch, boxes, 4]`: a
            key of the labels, or a function of the `Batch`, for example one that calls
            `keras.utils.bounding_boxes.convert_format(..., target="rel_xyxy")`. Boxes without area, such as padding of
            -1, are left out. Defaults to None: no boxes.
        temperature: Temperature of the attention, > 0, a number or a schedule. 0.5 to 0.8 is typical. Defaults to 0.5.
        foreground: Weight of the positions in boxes, >= 0, a number or a schedule. Defaults to 1e-3.
        background: Weight of the other positions, >= 0, a number or a schedule. Defaults to 5e-4.
        attention: Weight of the differences of attention, >= 0, a number or a schedule. Defaults to 5e-4.
        relation: Weight of the global part, >= 0, a number or a schedule. Defaults to 5e-6.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name`.

    Raises:
        ValueError: If an argument is out of its range, or in training, for labels without the key or boxes of another
            shape.

    Reference:
        Yang et al., CVPR 2022, https://arxiv.org/abs/2111.11837

    Example:
    >>> levels = [Term(FocalGlobalKD(boxes="boxes"), f"block_{i}", f"block_{i}", head="auto") for i in (1, 2)]
    """

    rank = 4

    def __init__(
        self,
        boxes: str | Callable | None = None,
        temperature: ScheduleLike = 0.5,
        foreground: ScheduleLike = 1e-3,
        background: ScheduleLike = 5e-4,
        attention: ScheduleLike = 5e-4,
        relation: ScheduleLike = 5e-6,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if not (boxes is None or isinstance(boxes, str) or callable(boxes)):
            raise ValueError(
                f"`boxes` must be a key of the labels, a function of the batch or None. Received: {boxes!r}"
            )
        self.boxes = boxes
        self.needs_labels = isinstance(boxes, str)
        self.temperature = check_positive(temperature, "temperature")
        self.foreground = check_positive(foreground, "foreground", zero=True)
        self.background = check_positive(background, "background", zero=True)
        self.attention = check_positive(attention, "attention", zero=True)
        self.relation = check_positive(relation, "relation", zero=True)

    def build(self, student_shape: tuple, teacher_shape: tuple) -> None:
        self.contexts = [self._context_weights(side, student_shape[-1]) for side in ("student", "teacher")]

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        size = position_size(student)
        boxes = self._boxes(batch)
        if boxes is None:
            boxes = ops.zeros((ops.shape(student)[0], 0, 4))
        weights = [value_at(x, batch.step) for x in (self.foreground, self.background, self.attention)]
        temperature, present = value_at(self.temperature, batch.step), batch.position_weight
        focal = focal_global_kd(student, teacher, box_weights(boxes, size), temperature, *weights, present)
        first, second = (global_context(x, w, present) for x, w in zip((student, teacher), self.contexts))
        difference = ops.sum(ops.square(first - second), axis=-1)
        difference = difference * _present(present, difference)
        return focal + value_at(self.relation, batch.step) * ops.sum(difference, axis=(1, 2))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "boxes": self.boxes,
            "temperature": self.temperature,
            "foreground": self.foreground,
            "background": self.background,
            "attention": self.attention,
            "relation": self.relation,
        }

    def _context_weights(self, side, channels):
        hidden = max(1, channels // 2)
        # The last kernel starts at 0, so that training starts from the difference of the feature maps themselves.
        shapes = {
            "key": ((channels, 1), "he_normal"),
            "kernel_1": ((channels, hidden), "he_normal"),
            "bias_1": ((hidden,), "zeros"),
            "scale": ((hidden,), "ones"),
            "offset": ((hidden,), "zeros"),
            "kernel_2": ((hidden, channels), "zeros"),
            "bias_2": ((channels,), "zeros"),
        }
        return [
            self.add_weight(shape=shape, initializer=initializer, name=f"{side}_{name}")
            for name, (shape, initializer) in shapes.items()
        ]

    def _boxes(self, batch):
        if self.boxes is None:
            return None
        if callable(self.boxes):
            boxes = self.boxes(batch)
        elif isinstance(batch.labels, dict) and self.boxes in batch.labels:
            boxes = batch.labels[self.boxes]
        else:
            keys = list(batch.labels) if isinstance(batch.labels, dict) else type(batch.labels).__name__
            raise ValueError(
                f"FocalGlobalKD reads boxes from the labels at '{self.boxes}'. Pass labels as a dictionary with this "
                f"key, or a function of the batch as `boxes`. Received labels: {keys}"
            )
        if len(boxes.shape) != 3 or boxes.shape[-1] != 4:
            raise ValueError(f"Boxes must have the shape [batch, boxes, 4]. Received: {tuple(boxes.shape)}")
        return boxes
