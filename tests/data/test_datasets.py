"""Datasets by name or path."""

import keras
import numpy as np
import pytest

from keras_distill.data.datasets import open_dataset
from tests.support.helpers import data
from tests.support.prepared import prepare


def collect(dataset):
    elements = [element if isinstance(element, tuple) else (element,) for element in dataset.as_numpy_iterator()]
    return tuple(np.stack(parts) for parts in zip(*elements))


def test_arrays(tmp_path):
    x, y = data()
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "both.npz", x=x, y=y)
    for name, expected in (("x.npy", (x,)), ("both.npz", (x, y))):
        actual = collect(open_dataset(tmp_path / name))
        assert len(actual) == len(expected)
        for array, expected_array in zip(actual, expected):
            np.testing.assert_array_equal(array, expected_array)
    np.testing.assert_allclose(collect(open_dataset(tmp_path / "x.npy", scale=0.5))[0], x / 2)


def test_directories_of_images(tmp_path):
    for number, name in enumerate(("cat", "lion")):
        (tmp_path / name).mkdir()
        keras.utils.save_img(tmp_path / name / "1.png", np.full((6, 6, 3), 100 * number), scale=False)
    model = keras.Sequential([keras.Input((6, 6, 3)), keras.layers.Flatten()])
    images, labels = collect(open_dataset(tmp_path, scale=1 / 100, like=model))
    np.testing.assert_allclose(images[:, 0, 0, 0], [0, 1])
    np.testing.assert_array_equal(labels, [0, 1])
    with pytest.raises(ValueError, match="resized to the input of a model.* Received: an input of shape \\(\\)"):
        open_dataset(tmp_path)


def test_prepared_datasets_by_name_and_by_directory(tmp_path):
    folder = prepare(tmp_path, "mnist", {"train": 30, "test": 4})
    by_name = collect(open_dataset("mnist", "train", data_dir=tmp_path))
    by_folder = collect(open_dataset(folder, "train"))
    assert by_name[0].shape == (30, 28, 28, 1) and by_name[0].dtype == "uint8" and len(by_name[1]) == 30
    for first, second in zip(by_name, by_folder):
        np.testing.assert_array_equal(first, second)
    (labels,) = collect(open_dataset("mnist", "test", feature="label", data_dir=tmp_path))
    assert labels.shape == (4,)
    with pytest.raises(ValueError, match="no feature 'picture'. Choose one of \\['image', 'label'\\]"):
        open_dataset("mnist", feature="picture", data_dir=tmp_path)
    with pytest.raises(ValueError, match="TensorFlow Datasets cannot open 'mnist', split 'dev'"):
        open_dataset("mnist", "dev", data_dir=tmp_path)


def test_splits_and_features_of_other_sources_raise(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.zeros((2, 3)), image=np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"x.npz' has no splits or features to choose from.*Received: split 'test'"):
        open_dataset(tmp_path / "x.npz", "test")
    with pytest.raises(ValueError, match="Received: feature 'image'"):
        open_dataset(tmp_path / "x.npz", feature="image")
    with pytest.raises(ValueError, match="Received: split 'test'"):
        open_dataset(tmp_path, "test")


def broken(folder):
    (folder / "x.npy").write_bytes(b"no array")
    return folder / "x.npy"


def without_x(folder):
    np.savez(folder / "x.npz", y=np.zeros(3))
    return folder / "x.npz"


def uneven(folder):
    np.savez(folder / "x.npz", x=np.zeros(3), y=np.zeros(2))
    return folder / "x.npz"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (broken, "x.npy' cannot be read"),
        (without_x, "has no array called 'x'. Save .* Received: \\['y'\\]"),
        (uneven, "has 3 inputs, but 2 labels"),
        (
            lambda folder: folder,
            "holds neither a directory of images for each class nor a dataset that TensorFlow Datasets prepared",
        ),
        (lambda folder: folder / "nowhere", "Dataset not found or unsupported: '.*nowhere'. Pass a .npy/.npz file"),
        (lambda folder: "no_such_data_set", "TensorFlow Datasets cannot open 'no_such_data_set', split 'train'"),
    ],
)
def test_unreadable_sources_raise(tmp_path, source, message):
    with pytest.raises(ValueError, match=message):
        open_dataset(source(tmp_path))
