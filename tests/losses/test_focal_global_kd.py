import keras
import numpy as np
import pytest

from keras_distill import Distiller, Term
from keras_distill.data.batch import Batch
from keras_distill.losses import FocalGlobalKD
from keras_distill.losses.focal_global_kd import box_weights, focal_global_kd, global_context
from tests.support.helpers import central_differences, features, fitted, softmax, value_and_gradient, zero_rate_sgd

BOXES = np.array([[[0.0, 0.0, 0.5, 0.5], [0.3, 0.2, 0.9, 1.0]], [[-1.0] * 4, [-1.0] * 4]], "float32")


def drawn(boxes, height, width):
    """Weights 1 / area, both ends of a box included, one box and one position after the other."""
    weights = np.zeros((len(boxes), height, width))
    for example, rows in zip(weights, boxes.astype("float64"), strict=True):
        for left, top, right, bottom in rows:
            if right <= left or bottom <= top:
                continue
            x = range(int(np.floor(left * width)), int(np.ceil(right * width)) + 1)
            y = range(int(np.floor(top * height)), int(np.ceil(bottom * height)) + 1)
            for i in y:
                for j in x:
                    if i < height and j < width:
                        example[i, j] = max(example[i, j], 1 / (len(x) * len(y)))
    return weights


def reference(student, teacher, boxes, temperature=0.5, foreground=1e-3, background=5e-4, attention=5e-4):
    """Equations 2 to 9 of the paper, for one example after the other."""
    values = []
    inside = drawn(boxes, *student.shape[1:3])
    for s, t, weight in zip(student.astype("float64"), teacher.astype("float64"), inside, strict=True):
        (height, width, channels), maps = s.shape, {}
        for name, f in (("s", s), ("t", t)):
            spatial = height * width * softmax(np.abs(f).mean(-1).reshape(-1), temperature).reshape(height, width)
            maps[name] = spatial, channels * softmax(np.abs(f).mean((0, 1)), temperature)
        outside = (weight == 0) / max(1, (weight == 0).sum())
        spatial, channel = maps["t"]
        attended = spatial[..., None] * channel * (s - t) ** 2
        value = (foreground * weight[..., None] * attended).sum() + (background * outside[..., None] * attended).sum()
        change = np.abs(maps["s"][0] - spatial).sum() + np.abs(maps["s"][1] - channel).sum()
        values.append(value + attention * change)
    return np.mean(values)


@pytest.mark.parametrize("size", [(4, 6), (5, 3)])
def test_matches_the_paper(size):
    student, teacher = features(2, *size, 4), features(2, *size, 4, seed=1)
    weights = box_weights(BOXES, size)
    value, gradient = value_and_gradient(lambda s: focal_global_kd(s, teacher, weights), student)
    np.testing.assert_allclose(value, reference(student, teacher, BOXES), rtol=1e-5)
    slope = central_differences(lambda s: reference(s, teacher, BOXES), student)
    np.testing.assert_allclose(gradient, slope, atol=2e-5 * np.abs(slope).max())


def test_weights_of_boxes():
    # Columns 0 to 2 and rows 0 to 1 of 4 x 4: the edge at half the width is a column, too. An edge of 1 is cut off.
    boxes = np.array([[[0.0, 0.0, 0.5, 0.25], [0.75, 0.75, 1.0, 1.0], [0.5, 0.5, 0.5, 0.9]]])
    expected = np.zeros((1, 4, 4))
    expected[0, :2, :3], expected[0, 3:, 3:] = 1 / 6, 1 / 4
    np.testing.assert_allclose(box_weights(boxes, (4, 4)), expected)


@pytest.mark.parametrize("length", [7, 10, 49, 100])
def test_edges_between_positions_do_not_move_by_rounding(length):
    edges = np.arange(1, length - 1)
    boxes = np.stack([edges / length, 0 * edges, (edges + 1) / length, 0 * edges + 1], axis=-1)[None].astype("float32")
    rows = np.asarray(box_weights(boxes.transpose(1, 0, 2), (1, length)))[:, 0]
    for edge, row in zip(edges, rows, strict=True):
        np.testing.assert_array_equal(np.flatnonzero(row), [edge, edge + 1])


def test_context_of_equal_positions_is_their_value():
    # Attention over equal vectors has no effect. W_1 and W_2 are unit matrices: relu of the normalized vector is added.
    vector = np.array([1.0, 3.0])
    weights = np.ones((2, 1)), np.eye(2), np.zeros(2), np.ones(2), np.zeros(2), np.eye(2), np.array([0.0, 10.0])
    weights = [w.astype("float32") for w in weights]
    found = global_context(np.broadcast_to(vector, (1, 2, 3, 2)).astype("float32"), weights)
    np.testing.assert_allclose(found, np.broadcast_to([1.0, 14.0], (1, 2, 3, 2)), rtol=1e-4)


def boxes_in_pixels(batch):
    return batch.labels["boxes"] / 12.0


@pytest.mark.parametrize("boxes", ["relative", boxes_in_pixels])
def test_boxes_come_with_the_labels(boxes):
    def backbone(name):
        return keras.Sequential([keras.Input((12, 12, 3)), keras.layers.Conv2D(4, 3, 2, "same", name="p3")], name=name)

    keras.utils.set_random_seed(0)
    student, teacher = backbone("student"), backbone("teacher")
    loss = FocalGlobalKD(boxes, relation=0.0)
    distiller = Distiller(student=student, teacher=teacher, terms=[Term(loss, "p3", "p3", name="fgd")])
    distiller.compile(zero_rate_sgd())
    x = features(2, 12, 12, 3)
    labels = {"relative": BOXES, "boxes": 12 * BOXES}
    expected = reference(student(x).numpy(), teacher(x).numpy(), BOXES)
    np.testing.assert_allclose(fitted(distiller, x, labels)["fgd_loss"], [expected], rtol=1e-4)


def test_boxes_that_do_not_exist_raise():
    loss, x = FocalGlobalKD("boxes"), features(2, 4, 4, 3)
    loss.build(x.shape, x.shape)
    with pytest.raises(ValueError, match=r"reads boxes from the labels at 'boxes'.*Received labels: \['bboxes'\]"):
        loss.compare(x, x, Batch(None, {"bboxes": BOXES}))
    with pytest.raises(ValueError, match=r"shape \[batch, boxes, 4\]. Received: \(2, 4\)"):
        loss.compare(x, x, Batch(None, {"boxes": BOXES[:, 0]}))
    with pytest.raises(ValueError, match="`boxes` must be a key of the labels, a function of the batch or None"):
        FocalGlobalKD(3)
