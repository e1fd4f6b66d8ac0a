"""Datasets by name or path."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill.cli import main
from keras_distill.data.datasets import open_dataset
from tests.support.helpers import data, mlp
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
            "holds neither a directory of images for each class, nor images, nor a dataset that TensorFlow Datasets",
        ),
        (lambda folder: folder / "nowhere", "Dataset not found or unsupported: '.*nowhere'. Pass a .npy/.npz file"),
        (lambda folder: "no_such_data_set", "TensorFlow Datasets cannot open 'no_such_data_set', split 'train'"),
    ],
)
def test_unreadable_sources_raise(tmp_path, source, message):
    with pytest.raises(ValueError, match=message):
        open_dataset(source(tmp_path))


def images(folder, count=3):
    """Write JPEG and PNG images of different sizes and channels in two classes; return their paths."""
    paths = []
    for number in range(count * 2):
        directory = folder / f"class_{number % 2}"
        directory.mkdir(exist_ok=True)
        shape = (7 + number, 9, 1 if number == 3 else 3)
        image = np.random.default_rng(number).integers(0, 255, shape)
        paths.append(directory / f"{number}.{'jpg' if number % 3 else 'png'}")
        keras.utils.save_img(paths[-1], image, scale=False)
    return paths


def image_model(channels=3):
    return keras.Sequential([keras.Input((6, 5, channels)), keras.layers.Flatten(), keras.layers.Dense(3)])


def test_a_directory_of_images_has_no_labels(tmp_path):
    for number, path in enumerate(images(tmp_path)):
        path.rename(tmp_path / f"{number}{path.suffix}")
    dataset = open_dataset(tmp_path, like=image_model())
    assert dataset.element_spec == tf.TensorSpec((6, 5, 3), "float32")
    for array, path in zip(dataset, sorted(tmp_path.glob("*.*g")), strict=True):
        image = tf.io.decode_image(path.read_bytes(), 3, expand_animations=False)
        np.testing.assert_array_equal(array, tf.image.resize(image, (6, 5)))


@pytest.mark.parametrize(("channels", "mode"), [(1, "grayscale"), (3, "rgb")])
def test_images_are_those_that_keras_reads(tmp_path, channels, mode):
    images(tmp_path)
    expected = keras.utils.image_dataset_from_directory(
        tmp_path, image_size=(6, 5), color_mode=mode, batch_size=None, shuffle=False, verbose=False
    )
    for array, other in zip(
        collect(open_dataset(tmp_path, like=image_model(channels))), collect(expected), strict=True
    ):
        np.testing.assert_array_equal(array, other)
        assert array.dtype == other.dtype


@pytest.mark.case("E12")
@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_an_image_that_cannot_be_read_is_named(tmp_path, content, capsys):
    (tmp_path / "images").mkdir()
    path = images(tmp_path / "images")[3]
    path.write_bytes(path.read_bytes()[:60] if content is None else content)
    message = f"'{path}' cannot be read as an image: .*Replace or delete the file."
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        collect(open_dataset(tmp_path / "images", like=image_model()))
    image_model().save(tmp_path / "teacher.keras")
    model, source = str(tmp_path / "teacher.keras"), f"--dataset={tmp_path / 'images'}"
    for command in (["label", model], ["distill", model, model, "--epochs=1"], ["export", model]):
        assert main([*command, source, f"--out={tmp_path / 'out'}"]) == 1
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
        assert re.search(f"error: cannot {command[0]} .*: .*{message}$", line)
        assert "ParallelMap" not in line and "[Op:" not in line and line.count("cannot be read") == 1


@pytest.mark.case("E14")
@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_complex_inputs_are_refused(tmp_path, dtype, capsys):
    np.savez(tmp_path / "x.npz", x=np.ones((24, 8), dtype), y=data()[1])
    with pytest.raises(ValueError, match=f"x.npz' holds inputs of dtype {dtype}, which cannot be scaled to float32"):
        open_dataset(tmp_path / "x.npz", scale=2)
    assert open_dataset(tmp_path / "x.npz").element_spec[0].dtype == dtype
    mlp().save(tmp_path / "teacher.keras")
    assert main(["label", str(tmp_path / "teacher.keras"), f"--dataset={tmp_path / 'x.npz'}", "--out=nowhere"]) == 1
    error = capsys.readouterr().err
    assert f"have dtype {dtype}, but 'student' takes float32. Save real and imaginary parts" in error
