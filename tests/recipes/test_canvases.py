"""Canvases with digits, their masks and boxes."""

import numpy as np

from recipes import canvases


def test_a_canvas_depends_on_its_number_and_the_seed(rectangles, drawn):
    for first, second in zip(canvases.draw(*rectangles, 12, seed=3), drawn):
        np.testing.assert_array_equal(first, second[:12])
    assert (canvases.draw(*rectangles, 12, seed=4).digits != drawn.digits[:12]).any()


def test_masks_and_boxes_fit_the_digits(drawn):
    assert drawn.images.shape == (40, 64, 64, 1) and 0 <= drawn.images.min() < drawn.images.max() <= 1
    counts = (drawn.digits >= 0).sum(axis=1)
    assert set(counts) == {1, 2, 3}
    for mask, boxes, labels in zip(drawn.masks, drawn.boxes, drawn.digits):
        expected = np.zeros((64, 64), int)
        # The ignored band of a digit may cover that of another one, but no digit.
        for box in boxes[labels >= 0]:
            left, top, right, bottom = np.round(box * 64).astype(int)
            expected[top - 2 : bottom + 2, left - 2 : right + 2] = 255
        for box, label in zip(boxes[labels >= 0], labels[labels >= 0]):
            left, top, right, bottom = np.round(box * 64).astype(int)
            expected[top:bottom, left:right] = 1 + label
        np.testing.assert_array_equal(mask, expected)
        assert (boxes[labels < 0] == -1).all()
