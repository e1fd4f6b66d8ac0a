"""Detector of digits, and the average precision of detections."""

import keras
import numpy as np

from recipes import detection


def test_targets_of_the_detector():
    # A box of 20x16 pixels with its center at (20, 28), in the reach of the positions at x = 20 and y = 28 only.
    boxes = np.array([[[10, 20, 30, 36], [-64, -64, -64, -64]]]) / 64
    classes, distances, positive, labeled = map(np.asarray, detection.targets(boxes, np.array([[7, -1]])))
    assert np.argwhere(positive[0]).tolist() == [[3, 2]] and labeled.tolist() == [1]
    np.testing.assert_array_equal(classes[0, 3, 2], np.eye(10)[7])
    assert classes.sum() == 1
    # Left, top, right, bottom are 10, 8, 10 and 8 pixels away; the first bin is at -6, each has 2 pixels.
    np.testing.assert_allclose(distances[0, 3, 2], [8, 7, 8, 7])
    unlabeled = detection.targets(np.full((1, 2, 4), -1.0), np.full((1, 2), -1))
    assert all(not np.any(values) for values in (unlabeled[0], unlabeled[2], unlabeled[3]))


def perfect(drawn):
    """Return outputs of a detector that predicts the targets of canvases."""
    classes, distances, _, _ = map(np.asarray, detection.targets(drawn.boxes, drawn.digits))
    bins = np.clip(1 - np.abs(distances[..., None] - np.arange(16)), 1e-6, None)
    return {"scores": 12 * classes - 6, "edges": np.log(bins).reshape(-1, 8, 8, 64)}


def test_decoded_targets_are_the_boxes(drawn):
    outputs, labels = perfect(drawn), {"boxes": drawn.boxes, "digits": drawn.digits}
    boxes, scores, digits = detection.decode(outputs)
    found = scores > 0
    np.testing.assert_array_equal(found.sum(axis=1), (drawn.digits >= 0).sum(axis=1))
    for number in range(len(boxes)):
        order, expected = (np.lexsort(box.T) for box in (boxes[number][found[number]], drawn.boxes[number]))
        present = expected[drawn.digits[number][expected] >= 0]
        np.testing.assert_allclose(boxes[number][order], 64 * drawn.boxes[number][present], atol=1e-3)
        np.testing.assert_array_equal(digits[number][order], drawn.digits[number][present])
    for thresholds in (1, 10):
        task = detection.Detection(thresholds)
        assert task.evaluate(outputs, labels) == task.agreement(outputs, outputs) == 1
    task = detection.Detection()
    outputs["edges"] = outputs["edges"][::-1]
    assert task.evaluate(outputs, labels) < 0.5


def test_loss_of_the_detector(drawn):
    labels = {"boxes": drawn.boxes, "digits": drawn.digits}
    model = detection.detector(2, "student")
    outputs = {
        name: np.float32(np.random.default_rng(0).normal(size=array.shape)) for name, array in perfect(drawn).items()
    }
    classes, distances, positive, _ = map(np.asarray, detection.targets(drawn.boxes, drawn.digits))
    probabilities = 1 / (1 + np.exp(-outputs["scores"]))
    total = -np.where(classes == 1, (1 - probabilities) ** 2 * np.log(probabilities), 0).sum()
    total -= np.where(classes == 0, probabilities**2 * np.log(1 - probabilities), 0).sum()
    edges = outputs["edges"].reshape(40, 8, 8, 4, 16)
    log = edges - np.log(np.exp(edges).sum(axis=-1, keepdims=True))
    for index in np.argwhere(positive):
        for side, distance in enumerate(distances[tuple(index)]):
            low, part = int(min(distance, 14)), distance - int(min(distance, 14))
            values = log[(*index, side)]
            total -= ((1 - part) * values[low] + part * values[low + 1]) / 4
    np.testing.assert_allclose(model.compute_loss(y=labels, y_pred=outputs), total / positive.sum(), rtol=1e-5)
    # Canvases without labels do not count.
    more = {name: np.concatenate([array, np.full_like(array, -1)]) for name, array in labels.items()}
    twice = keras.tree.map_structure(lambda array: np.concatenate([array, array]), outputs)
    np.testing.assert_allclose(model.compute_loss(y=more, y_pred=twice), total / positive.sum(), rtol=1e-5)
    assert detection.Detection().labeled(more).tolist() == [True] * 40 + [False] * 40


def test_average_precision_by_hand():
    # Sorted by score: correct, wrong, correct, of three true boxes. Precision 1 up to a recall of 1/3 (34 of the 101
    # points), then 2/3 up to a recall of 2/3 (33 points).
    scores, correct = np.array([0.3, 0.9, 0.5]), np.array([[True], [True], [False]])
    np.testing.assert_allclose(detection.average_precision(scores, correct, 3), [(34 + 33 * 2 / 3) / 101])
    np.testing.assert_array_equal(detection.average_precision(np.zeros(0), np.zeros((0, 2), bool), 3), [0, 0])


def test_detections_match_one_box_each():
    true = np.array([[0.0, 0, 10, 10], [20, 0, 30, 10]])
    # Shifted by 2 of 10 pixels: 80 / 120. The second best detection of a box and one of another digit are wrong.
    boxes = np.array([[2.0, 0, 12, 10], [0, 0, 10, 10], [20, 0, 30, 10]])
    correct = detection.match(boxes, np.array([0.9, 0.8, 0.7]), np.array([4, 4, 5]), true, np.array([4, 4]))
    np.testing.assert_array_equal(correct[0], detection.THRESHOLDS <= 2 / 3)
    np.testing.assert_array_equal(correct[1], detection.THRESHOLDS > 2 / 3)
    assert not correct[2].any()
    np.testing.assert_allclose(detection.iou(boxes[:1], true), [[2 / 3, 0]])


def test_drawn_boxes():
    labels = {"boxes": np.array([[[8, 16, 24, 40], [0, 0, 64, 64]]]) / 64, "digits": np.array([[3, -1]])}
    image = detection.Detection().draw(np.zeros((1, 64, 64, 1), "float32"), labels)[0]
    rows, columns = (np.flatnonzero(image.any(-1).any(axis)) for axis in (1, 0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (16, 40, 8, 24) and not image[17:40, 9:24].any()
    assert (image[16, 8:25] == detection.COLORS[3]).all()
