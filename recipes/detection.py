"""A small anchor-free detector of digits, and the average precision of detections."""

import keras
import numpy as np
from keras import layers, ops

from keras_distill.experiment import Score, Task

from . import canvases, data

STRIDE = 8
CELLS = canvases.SIZE // STRIDE
# Distances from a position to the sides of a box are distributions over bins of 2 pixels, from -6 to 24 pixels. They
# are negative for narrow digits, where the nearest position may be outside.
BINS, _BIN, _FIRST = 16, 2.0, -6.0
# A position is responsible for a box whose center is at most 6 pixels away along both axes. Each center has one.
_REACH = 6.0
# IoU above which a detection counts, as in COCO, and the most detections of a canvas.
THRESHOLDS = np.arange(0.5, 1.0, 0.05)
_MOST = 10
# Detections of lower scores are left out, and those that overlap with a better one of their class by more than this.
_LOWEST_SCORE, _OVERLAP = 0.05, 0.5
_RECALLS = np.linspace(0, 1, 101)
# Colors of the boxes of the digits, of Paul Tol's palettes.
COLORS = np.array(
    [
        (238, 102, 119),
        (34, 136, 51),
        (68, 119, 170),
        (204, 187, 68),
        (102, 204, 238),
        (170, 51, 119),
        (238, 119, 51),
        (0, 153, 136),
        (187, 187, 187),
        (153, 153, 51),
    ],
    "uint8",
)


@keras.saving.register_keras_serializable("keras_distill_recipes")
class Detector(keras.Model):
    """Detector that computes its own loss from boxes and digits.

    Its outputs are `{"scores": logits of the digits, "edges": logits of the bins of each side}`, shapes
    `[batch, 8, 8, 10]` and `[batch, 8, 8, 64]`; labels are `{"boxes": ..., "digits": ...}` as in `Canvases`. A canvas
    whose digits are all -1 has no label.
    """

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        classes, distances, positive, labeled = targets(y["boxes"], y["digits"])
        logits, edges = y_pred["scores"], ops.reshape(y_pred["edges"], (-1, CELLS, CELLS, 4, BINS))
        probabilities = ops.sigmoid(logits)
        # Focal loss, since few positions are responsible for a digit.
        entropy = ops.relu(logits) - logits * classes + ops.softplus(-ops.abs(logits))
        focal = ops.sum(entropy * ops.square(classes - probabilities), axis=-1) * labeled[:, None, None]
        # Distribution focal loss: the cross-entropy with the two bins around the distance.
        weights = ops.relu(1 - ops.abs(distances[..., None] - ops.arange(BINS, dtype="float32")))
        sides = -ops.mean(ops.sum(weights * ops.log_softmax(edges), axis=-1), axis=-1) * positive
        return (ops.sum(focal) + ops.sum(sides)) / ops.maximum(ops.sum(positive), 1.0)


def detector(width: int, name: str) -> Detector:
    """Return a detector. Its features before the two outputs are the layer "neck".

    Args:
        width: Number of channels of the first block.
        name: Name of the model.
    """
    x = inputs = keras.Input((canvases.SIZE, canvases.SIZE, 1))
    blocks = (
        (width, 2, None),
        (2 * width, 2, None),
        (4 * width, 2, None),
        (4 * width, 1, None),
        (4 * width, 1, "neck"),
    )
    for channels, stride, block in blocks:
        x = layers.Conv2D(channels, 3, stride, padding="same", use_bias=False)(x)
        x = layers.ReLU(name=block)(layers.BatchNormalization(momentum=0.9)(x))
    # Few positions have a digit: scores start near 0.01.
    scores = layers.Conv2D(len(data.DIGITS), 1, bias_initializer=keras.initializers.Constant(-4.6), name="scores")(x)
    return Detector(inputs, {"scores": scores, "edges": layers.Conv2D(4 * BINS, 1, name="edges")(x)}, name=name)


def targets(boxes, digits):
    """Return classes, distances in bins, responsible positions and labeled canvases.

    Args:
        boxes: `[left, top, right, bottom]` as fractions of the canvas, shape `[batch, boxes, 4]`.
        digits: Shape `[batch, boxes]`; -1 for absent ones.

    Returns:
        float32, shapes `[batch, 8, 8, 10]`, `[batch, 8, 8, 4]`, `[batch, 8, 8]` and `[batch]`.
    """
    boxes, digits = ops.cast(boxes, "float32") * canvases.SIZE, ops.cast(digits, "int32")
    centers = (ops.arange(CELLS, dtype="float32") + 0.5) * STRIDE
    x, y = centers[None, None, :, None], centers[None, :, None, None]
    left, top, right, bottom = (boxes[:, None, None, :, side] for side in range(4))
    zeros = ops.zeros_like(x + y + left)
    distances = ops.stack([x - left + zeros, y - top + zeros, right - x + zeros, bottom - y + zeros], axis=-1)
    apart = ops.maximum(ops.abs(x - (left + right) / 2), ops.abs(y - (top + bottom) / 2))
    apart = ops.where(digits[:, None, None] >= 0, apart, 1e9)
    nearest = ops.one_hot(ops.argmin(apart, axis=-1), ops.shape(digits)[1], dtype="float32")
    positive = ops.cast(ops.min(apart, axis=-1) <= _REACH, "float32")
    classes = ops.einsum("bhwn,bnc->bhwc", nearest, ops.one_hot(digits, len(data.DIGITS), dtype="float32"))
    bins = (ops.einsum("bhwn,bhwns->bhws", nearest, distances) - _FIRST) / _BIN
    labeled = ops.cast(ops.any(digits >= 0, axis=-1), "float32")
    return classes * positive[..., None], ops.clip(bins, 0, BINS - 1), positive, labeled


def decode(outputs: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the detections of each canvas, best first, after non-maximum suppression.

    Args:
        outputs: Outputs of a detector.

    Returns:
        Boxes in pixels, scores and digits, shapes `[canvases, 10, 4]`, `[canvases, 10]` and `[canvases, 10]`. Where
        there are fewer detections, the score is 0 and the digit -1.
    """
    count = len(outputs["scores"])
    edges = outputs["edges"].reshape(count, -1, 4, BINS).astype(float)
    bins = np.exp(edges - edges.max(axis=-1, keepdims=True))
    bins /= bins.sum(axis=-1, keepdims=True)
    distances = _FIRST + _BIN * (bins @ np.arange(BINS))
    y, x = (axis.ravel() for axis in np.mgrid[:CELLS, :CELLS] * STRIDE + STRIDE / 2)
    places = np.stack([x, y, x, y], axis=-1)
    boxes = places + distances * np.array([-1, -1, 1, 1])
    probabilities = 1 / (1 + np.exp(-outputs["scores"].reshape(count, -1, len(data.DIGITS)).astype(float)))
    scores, digits = probabilities.max(axis=-1), probabilities.argmax(axis=-1)
    found = np.full((count, _MOST, 4), -1.0), np.zeros((count, _MOST)), np.full((count, _MOST), -1)
    for number in range(count):
        kept = _suppressed(boxes[number], scores[number], digits[number])
        for array, values in zip(found, (boxes, scores, digits)):
            array[number, : len(kept)] = values[number][kept]
    return found


def iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the intersection over union of all pairs of boxes.

    Args:
        first: `[left, top, right, bottom]`, shape `[n, 4]`.
        second: Shape `[m, 4]`.

    Returns:
        Shape `[n, m]`.
    """
    corners = np.maximum(first[:, None, :2], second[None, :, :2]), np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(corners[1] - corners[0], 0, None).prod(axis=-1)
    areas = [np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=-1) for boxes in (first, second)]
    return shared / np.maximum(areas[0][:, None] + areas[1] - shared, 1e-9)


def _suppressed(boxes, scores, digits):
    """Return the indices of detections that no better one of the same class overlaps."""
    order = [index for index in np.argsort(-scores, kind="stable") if scores[index] >= _LOWEST_SCORE]
    overlaps, kept = iou(boxes[order], boxes[order]) if order else None, []
    for rank, index in enumerate(order):
        same = [other for other in kept if digits[order[other]] == digits[index]]
        if len(kept) < _MOST and all(overlaps[rank, other] <= _OVERLAP for other in same):
            kept.append(rank)
    return [order[rank] for rank in kept]


def match(boxes, scores, digits, true_boxes, true_digits) -> np.ndarray:
    """Return which detections of a canvas are correct at each threshold, booleans of shape `[detections, thresholds]`.

    As in COCO, detections choose in the order of their scores among the true boxes of their class that are left, the
    one with the largest IoU.
    """
    overlaps = iou(boxes, true_boxes) * (digits[:, None] == true_digits)
    correct = np.zeros((len(boxes), len(THRESHOLDS)), bool)
    for column, threshold in enumerate(THRESHOLDS):
        left = overlaps.copy()
        for detection in np.argsort(-scores, kind="stable"):
            best = left[detection].argmax() if left.shape[1] else None
            if best is not None and left[detection, best] >= threshold:
                correct[detection, column] = True
                left[:, best] = 0
    return correct


def average_precision(scores: np.ndarray, correct: np.ndarray, positives: int) -> np.ndarray:
    """Return the average precision of one class at each threshold, interpolated at 101 recalls as in COCO.

    Args:
        scores: Scores of the detections of all canvases, shape `[detections]`.
        correct: Shape `[detections, thresholds]`.
        positives: Number of true boxes, >= 1.
    """
    hits = np.cumsum(correct[np.argsort(-scores, kind="stable")], axis=0)
    recall, precision = hits / positives, hits / np.arange(1, len(hits) + 1)[:, None]
    best = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    values = np.zeros((len(_RECALLS), correct.shape[1]))
    for column in range(correct.shape[1]):
        ranks = np.searchsorted(recall[:, column], _RECALLS, side="left")
        reached = ranks < len(best)
        values[reached, column] = best[ranks[reached], column]
    return values.mean(axis=0)


class Detection(Task):
    """Detection of digits. The score is the average precision (AP) of COCO: mean over digits and IoU thresholds.

    Args:
        thresholds: Number of thresholds that count, from an IoU of 0.5 on: 1 for AP50. Defaults to 10, AP.
    """

    num_drawn = 4

    def __init__(self, thresholds: int = len(THRESHOLDS)):
        self.thresholds = thresholds
        self.score = Score("AP50" if thresholds == 1 else "AP")

    def __repr__(self):
        return f"Detection({self.thresholds})"

    def loss(self, model):
        # The detector computes its own loss.
        return None

    def records(self, outputs, labels):
        """Return scores, digits and correctness of the detections, and the number of true boxes of each digit."""
        boxes, scores, digits = decode(outputs)
        true = np.asarray(labels["boxes"], float) * canvases.SIZE
        true_digits = np.asarray(labels["digits"])
        correct = np.stack(
            [match(*each) for each in zip(boxes, scores, digits, true, np.where(true_digits < 0, -2, true_digits))]
        )
        counts = (true_digits[..., None] == np.arange(len(data.DIGITS))).sum(axis=1)
        return {"scores": scores, "digits": digits, "correct": correct, "counts": counts}

    def score_of(self, records):
        totals, values = np.sum(records["counts"], axis=0), []
        for digit in np.flatnonzero(totals):
            found = records["digits"] == digit
            each = average_precision(records["scores"][found], records["correct"][found], totals[digit])
            values.append(each[: self.thresholds].mean())
        return float(np.mean(values))

    def as_labels(self, outputs):
        boxes, scores, digits = decode(outputs)
        # Boxes that a user would be shown.
        digits = np.where(scores >= 0.3, digits, -1)
        return {"boxes": (boxes / canvases.SIZE).astype("float32"), "digits": digits}

    def labeled(self, labels):
        return (np.asarray(labels["digits"]) >= 0).any(axis=1)

    def missing_labels(self, labels):
        return keras.tree.map_structure(lambda array: np.full_like(array, -1), labels)

    def draw(self, inputs, labels):
        """Return the canvases with boxes in the colors of the digits."""
        images = np.repeat(np.uint8(255 * inputs[..., :1]), 3, axis=-1)
        for image, boxes, digits in zip(images, np.asarray(labels["boxes"]), np.asarray(labels["digits"])):
            for box, digit in zip(boxes[digits >= 0], digits[digits >= 0]):
                left, top, right, bottom = np.clip(np.round(box * canvases.SIZE).astype(int), 0, canvases.SIZE - 1)
                for area in ((top, slice(left, right + 1)), (bottom, slice(left, right + 1))):
                    image[area] = COLORS[digit]
                for area in ((slice(top, bottom + 1), left), (slice(top, bottom + 1), right)):
                    image[area] = COLORS[digit]
        return images
