"""Augmentations: each new example is what the formula of its source gives."""

import numpy as np
import pytest
import tensorflow as tf

from keras_distill.data import (
    Augmentation,
    Crops,
    CutMix,
    Mixup,
    Munge,
    Recombination,
    Shifts,
    WordDrop,
    augment,
    augment_dataset,
)

RNG = np.random.default_rng(5)
TABLE = RNG.normal(size=(40, 5)).astype("float32")
IMAGES = RNG.random((12, 6, 8, 3)).astype("float32")
TEXTS = np.array(["one two three four", "five six seven", "eight", "nine ten"])
ONE_HOT = np.eye(4, dtype="float32")
SOURCES = {
    Mixup(): TABLE,
    CutMix(): IMAGES,
    Crops(): IMAGES,
    Shifts(): IMAGES,
    Munge(): TABLE,
    WordDrop(): TEXTS,
    Recombination(): TEXTS,
}


@pytest.mark.parametrize(("augmentation", "inputs"), SOURCES.items(), ids=lambda value: type(value).__name__)
def test_number_and_seed_determine_every_example(augmentation, inputs):
    first, labels = augment(augmentation, inputs, size=3, seed=1)
    again, _ = augment(augmentation, inputs, size=3, seed=1)
    other, _ = augment(augmentation, inputs, size=3, seed=2)
    longer, _ = augment(augmentation, inputs, size=4, seed=1)
    assert labels is None and len(first) == 3 * len(inputs)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(longer[: len(first)], first)
    assert not np.array_equal(first, other)
    # The rounds differ, too.
    assert not np.array_equal(first[: len(inputs)], first[len(inputs) : 2 * len(inputs)])
    assert first.dtype.kind == inputs.dtype.kind and first.shape[1:] == inputs.shape[1:]


def test_mixup_is_on_the_line_between_two_examples():
    labels = np.eye(40, dtype="float32")
    mixed, mixed_labels = augment(Mixup(0.5), TABLE, labels, size=4)
    np.testing.assert_allclose(mixed, mixed_labels @ TABLE, atol=1e-5)
    np.testing.assert_allclose(mixed_labels.sum(axis=1), 1, atol=1e-6)
    assert ((mixed_labels > 0).sum(axis=1) <= 2).all()
    # Beta(0.5, 0.5) has the variance 1/8; each example is its own partner once in 40 times.
    shares = mixed_labels.reshape(4, 40, 40)[:, np.arange(40), np.arange(40)]
    assert abs(shares[shares < 1].var() - 1 / 8) < 0.04


def test_small_concentration_leaves_examples_nearly_unmixed():
    largest = [augment(Mixup(a), TABLE, np.eye(40, dtype="float32"), size=5)[1].max(axis=1).mean() for a in (0.05, 5)]
    assert largest[0] > 0.9 > 0.7 > largest[1]


def test_cutmix_pixels_come_from_both_images_in_proportion_to_the_labels():
    images = np.broadcast_to(np.arange(1.0, 5)[:, None, None, None], (4, 8, 8, 1)).astype("float32")
    mixed, labels = augment(CutMix(), images, ONE_HOT, size=20)
    for image, label in zip(mixed, labels):
        parts = [(image == number).mean() for number in range(1, 5)]
        np.testing.assert_allclose(parts, label, atol=1e-6)
        # The replaced part is a rectangle.
        rows, columns = np.nonzero(image[..., 0] != image[0, 0, 0])
        if len(rows):
            block = image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1, 0]
            inside = block == image[rows[0], columns[0], 0]
            assert inside.all() or (image[..., 0] == image[0, 0, 0]).sum() < 32
    assert (labels.max(axis=1) < 1).mean() > 0.02


def test_crops_of_a_plane_are_parts_of_it():
    """A crop of a linear image is the linear image of a smaller range, mirrored half of the time."""
    rows, columns = np.meshgrid(np.arange(10.0), np.arange(10.0), indexing="ij")
    images = np.repeat(np.stack([rows, columns], axis=-1)[None], 200, axis=0).astype("float32")
    crops, _ = augment(Crops(area=0.36), images, size=1)
    down, right = np.diff(crops[..., 0], axis=1), np.diff(crops[..., 1], axis=2)
    inner = (slice(None), slice(2, -2), slice(2, -2))
    # The slope is the size of the crop relative to the image: constant within one crop.
    assert np.ptp(down[inner], axis=(1, 2)).max() < 1e-4 and np.ptp(right[inner], axis=(1, 2)).max() < 1e-4
    height, width = down[:, 4, 4], np.abs(right[:, 4, 4])
    assert (height * width > 0.35).all() and height.max() <= 1.001 and (height > 0).all()
    assert 0.35 < (right[:, 4, 4] < 0).mean() < 0.65
    assert crops.min() >= 0 and crops.max() <= 9
    unflipped, _ = augment(Crops(area=0.36, flip=False), images, size=1)
    assert (np.diff(unflipped[..., 1], axis=2)[:, 4, 4] > 0).all()
    # Nothing of the border is filled with 0, but for rounding.
    whole, _ = augment(Crops(area=1.0), images + 1, size=1)
    assert whole.min() > 0.99 and abs(whole.max() - 10) < 1e-4


def test_shifts_move_the_image():
    shifted, _ = augment(Shifts(2), IMAGES, size=30)
    seen = set()
    for image, source in zip(shifted, np.tile(IMAGES, (30, 1, 1, 1))):
        matches = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if np.array_equal(
                np.roll(np.pad(source, [(2, 2), (2, 2), (0, 0)]), (down, right), (0, 1))[2:-2, 2:-2], image
            )
        ]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) == 25


def test_munge_moves_columns_towards_the_nearest_row():
    # Pairs of rows that are far from all others: row 2i and 2i + 1.
    centers = np.repeat(np.arange(20.0) * 100, 2)[:, None]
    rows = np.hstack([centers + np.tile([0, 1.0], 20)[:, None], centers + np.tile([3.0, 5.0], 20)[:, None]])
    new, labels = augment(Munge(0.5), rows, np.arange(40), size=200)
    partner = rows.reshape(20, 2, 2)[:, ::-1].reshape(40, 2)
    same = new.reshape(200, 40, 2) == rows
    assert abs(same.mean() - 0.5) < 0.02
    moved = np.where(same, np.nan, new.reshape(200, 40, 2) - partner)
    np.testing.assert_allclose(np.nanmean(moved), 0, atol=0.05)
    np.testing.assert_allclose(np.nanstd(moved, axis=(0, 1)), [1, 2], rtol=0.05)
    np.testing.assert_array_equal(labels, np.tile(np.arange(40), 200))
    closer, _ = augment(Munge(1.0, closeness=10), rows, size=200)
    np.testing.assert_allclose((closer.reshape(200, 40, 2) - partner).std(axis=(0, 1)), [0.1, 0.2], rtol=0.05)


def test_munge_takes_categories_from_the_neighbor():
    table = np.array([[0, 1], [1, 7], [100, 3], [101, 4]])
    new, _ = augment(Munge(1.0, categories=[1]), table, size=50)
    assert new.dtype == table.dtype
    np.testing.assert_array_equal(new[:, 1], np.tile([7, 1, 4, 3], 50))


def test_munge_of_equal_rows():
    table = np.ones((5, 3), "float32")
    np.testing.assert_array_equal(augment(Munge(), table, size=1)[0], table)


def test_word_drop_keeps_the_order():
    new, _ = augment(WordDrop(0.3), TEXTS, size=300)
    kept = 0
    for text, source in zip(new, np.tile(TEXTS, 300)):
        words, remaining = text.split(), iter(source.split())
        assert words and all(word in remaining for word in words)
        kept += len(words) - (len(source.split()) == 1)
    # Each of n words is kept with probability 0.7; if none is, with probability 0.3^n, one remains.
    assert abs(kept / (300 * 9) - (0.7 * 9 + 0.3**4 + 0.3**3 + 0.3**2) / 9) < 0.02


@pytest.mark.parametrize("kind", ["texts", "ids", "bytes"])
def test_recombination_joins_a_beginning_and_an_end(kind):
    ids = np.array([[1, 2, 3, 4, 0], [5, 6, 7, 0, 0], [8, 0, 0, 0, 0], [9, 10, 0, 0, 0]])
    numbers = {word: number for number, word in enumerate(" ".join(TEXTS).split(), 1)}
    inputs = {"texts": TEXTS, "ids": ids, "bytes": np.char.encode(TEXTS)}[kind]
    new, labels = augment(Recombination(), inputs, ONE_HOT, size=50)
    sources = [[1, 2, 3, 4], [5, 6, 7], [8], [9, 10]]
    joined = set()
    for row, label in zip(new, labels):
        found = [number for number in row if number] if kind == "ids" else None
        if found is None:
            found = [numbers[word] for word in (row.decode() if kind == "bytes" else row).split()]
        candidates = [
            (first, second)
            for first in range(4)
            for second in range(4)
            for cut in range(1, len(found) + 1)
            if found[:cut] == sources[first][:cut] and found[cut:] == sources[second][-len(found[cut:]) :]
        ]
        joined |= set(candidates)
        assert candidates or len(found) == 5
        np.testing.assert_allclose(label.sum(), 1, atol=1e-6)
    assert len({pair for pair in joined if pair[0] != pair[1]}) == 12


@pytest.mark.parametrize(
    ("augmentation", "inputs", "labels", "message"),
    [
        (Mixup(), TABLE, np.arange(40), "one-hot labels"),
        (Mixup(), np.array(["a", "b"]), None, "averages numbers"),
        (CutMix(), TABLE, None, "takes images of shape"),
        (Crops(), TABLE, None, "takes images of shape"),
        (Shifts(), TABLE, None, "takes images of shape"),
        (Munge(), IMAGES, None, "takes a table of numbers"),
        (Munge(), np.full((3, 2), np.nan), None, "no NaN"),
        (Munge(), np.ones((1, 2)), None, "at least 2 rows"),
        (WordDrop(), TABLE, None, "takes texts, or token ids"),
        (Recombination(), {"token_ids": np.ones((2, 3), int)}, None, "tokenize what it returns"),
    ],
)
def test_unsuitable_inputs(augmentation, inputs, labels, message):
    with pytest.raises(ValueError, match=message):
        augment(augmentation, inputs, labels, size=1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Mixup(0),
        lambda: CutMix(-1),
        lambda: Crops(0),
        lambda: Crops(1.5),
        lambda: Shifts(0),
        lambda: Munge(0),
        lambda: Munge(1.2),
        lambda: Munge(0.5, 0),
        lambda: WordDrop(1),
        lambda: augment(Mixup(), TABLE, size=0),
        lambda: augment(Mixup(), TABLE, seed=-1),
    ],
)
def test_numbers_out_of_range(make):
    with pytest.raises(ValueError, match="must be"):
        make()


def test_integers_stay_integers():
    pixels = (IMAGES * 255).astype("uint8")
    for augmentation in (Mixup(), CutMix(), Crops(), Shifts()):
        new, _ = augment(augmentation, pixels, size=2)
        assert new.dtype == "uint8"
        assert new.std() > 30


def test_missing_labels_stay_missing():
    labels = np.array([[1, 0], [np.nan, np.nan], [0, 1]], "float32")
    _, mixed = augment(Mixup(), TABLE[:3], labels, size=10)
    missing = np.isnan(mixed).any(axis=1)
    assert missing.any() and not missing.all()
    np.testing.assert_allclose(mixed[~missing].sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("labels", [True, False])
def test_datasets_are_read_again_in_the_same_order(labels):
    y = np.eye(40, dtype="float32")
    source = (TABLE, y) if labels else TABLE
    made = augment_dataset(Mixup(), tf.data.Dataset.from_tensor_slices(source), size=3, seed=4)
    assert made.cardinality() == 120

    def read():
        first = made.batch(120).get_single_element()
        return [part.numpy() for part in (first if labels else (first,))]

    first, again = read(), read()
    for one, other in zip(first, again):
        np.testing.assert_array_equal(one, other)
    if labels:
        np.testing.assert_allclose(first[0], first[1] @ TABLE, atol=1e-5)
    assert len(np.unique(first[0], axis=0)) > 100


def test_text_datasets():
    made = augment_dataset(WordDrop(), tf.data.Dataset.from_tensor_slices(TEXTS), size=2)
    words = {word for text in made.as_numpy_iterator() for word in text.decode().split()}
    assert words <= set(" ".join(TEXTS).split()) and len(words) > 4


def test_functions_of_the_user():
    def noisy(inputs, labels, generator):
        return inputs + generator.normal(size=inputs.shape).astype("float32"), labels

    new, labels = augment(noisy, TABLE, np.arange(40), size=2)
    assert 0.9 < (new - np.tile(TABLE, (2, 1))).std() < 1.1
    np.testing.assert_array_equal(labels, np.tile(np.arange(40), 2))
    with pytest.raises(ValueError, match=r"must return `\(inputs, labels\)`"):
        augment(lambda inputs, labels, generator: inputs, TABLE, size=1)
    with pytest.raises(ValueError, match="must return inputs like those that it gets"):
        augment(lambda inputs, labels, generator: (inputs[:3], labels), TABLE, size=1)
    with pytest.raises(NotImplementedError):
        augment(Augmentation(), TABLE, size=1)
