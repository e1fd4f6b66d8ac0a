"""What a name or a path on the command line stands for."""

import keras
import numpy as np
import pytest

from keras_distill.data.datasets import open_dataset
from tests.support.helpers import data
from tests.support.prepared import prepare


def collected(dataset):
    elements = [element if isinstance(element, tuple) else (element,) for element in dataset.as_numpy_iterator()]
    return tuple(np.stack(parts) for parts in zip(*elements))


def test_arrays(tmp_path):
    x, y = data()
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "both.npz", x=x, y=y)
    for name, expected in (("x.npy", (x,)), ("both.npz", (x, y))):
        found = collected(open_dataset(tmp_path / name))
        assert len(found) == len(expected)
        for part, whole in zip(found, expected):
            np.testing.assert_array_equal(part, whole)
    np.testing.assert_allclose(collected(open_dataset(tmp_path / "x.npy", scale=0.5))[0], x / 2)


def test_pictures_in_a_folder_for_each_class(tmp_path):
    for number, name in enumerate(("cat", "lion")):
        (tmp_path / name).mkdir()
        keras.utils.save_img(tmp_path / name / "1.png", np.full((6, 6, 3), 100 * number), scale=False)
    model = keras.Sequential([keras.Input((6, 6, 3)), keras.layers.Flatten()])
    images, labels = collected(open_dataset(tmp_path, scale=1 / 100, like=model))
    np.testing.assert_allclose(images[:, 0, 0, 0], [0, 1])
    np.testing.assert_array_equal(labels, [0, 1])
    with pytest.raises(ValueError, match="need a model that takes one of a known size. It takes: \\(\\)"):
        open_dataset(tmp_path)


def test_prepared_data_sets_by_name_and_by_folder(tmp_path):
    folder = prepare(tmp_path, "mnist", {"train": 30, "test": 4})
    by_name = collected(open_dataset("mnist", "train", data_dir=tmp_path))
    by_folder = collected(open_dataset(folder, "train"))
    assert by_name[0].shape == (30, 28, 28, 1) and by_name[0].dtype == "uint8" and len(by_name[1]) == 30
    for first, second in zip(by_name, by_folder):
        np.testing.assert_array_equal(first, second)
    (labels,) = collected(open_dataset("mnist", "test", feature="label", data_dir=tmp_path))
    assert labels.shape == (4,)
    with pytest.raises(ValueError, match="no feature 'picture'. Choose one of \\['image', 'label'\\]"):
        open_dataset("mnist", feature="picture", data_dir=tmp_path)
    with pytest.raises(ValueError, match="'mnist', split 'dev', cannot be opened"):
        open_dataset("mnist", "dev", data_dir=tmp_path)


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
        (without_x, "has no array called 'x'. There: \\['y'\\]"),
        (uneven, "has 3 inputs, but 2 labels"),
        (lambda folder: folder, "holds neither pictures, in a folder for each class, nor a prepared data set"),
        (lambda folder: folder / "nowhere", "nowhere' is not there"),
        (lambda folder: "no_such_data_set", "'no_such_data_set', split 'train', cannot be opened"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, source, message):
    with pytest.raises(ValueError, match=message):
        open_dataset(source(tmp_path))
