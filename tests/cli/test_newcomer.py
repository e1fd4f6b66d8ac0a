"""A newcomer: a trained classifier, a folder of images, two commands and no Python."""

import colorsys
import contextlib
import io
import pathlib
import re
import shlex
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill.cli import main
from keras_distill.compression import runtimes
from keras_distill.experiment import Results

README = (pathlib.Path(__file__).parent.parent.parent / "README.md").read_text()
COMMANDS = re.findall(r"^(keras-distill (?:student model|distill model).*)$", README, re.MULTILINE)
# Unbalanced, in alphabetical order, as folders are.
COUNTS = {"circle": 90, "square": 45, "triangle": 20}
SIZE = 24


def picture(shape, height, width, rng):
    """Image of a light shape of any color on a dark ground, uint8, shape `[height, width, 3]`."""
    ground, color = (
        np.array(colorsys.hsv_to_rgb(*values)) for values in ((rng.random(), 1, 0.3), (rng.random(), 0.4, 1))
    )
    y, x = np.mgrid[:height, :width]
    radius = rng.uniform(0.3, 0.4)
    # In fractions of the sides, since the network sees all images in one shape.
    y, x = (y + 0.5) / height - rng.uniform(0.42, 0.58), (x + 0.5) / width - rng.uniform(0.42, 0.58)
    inside = {
        "circle": x**2 + y**2 < radius**2,
        "square": np.maximum(abs(x), abs(y)) < radius * 0.9,
        "triangle": (abs(y) < radius) & (abs(x) < (y + radius) / 2),
    }[shape]
    image = np.where(inside[..., None], color, ground) + rng.normal(0, 0.05, (height, width, 3))
    return np.uint8(np.clip(255 * image, 0, 255))


def pictures(counts, seed):
    """Images of different sizes, none of them square, and their classes."""
    rng = np.random.default_rng(seed)
    for number, (shape, count) in enumerate(counts.items()):
        for _ in range(count):
            height = int(rng.integers(26, 48))
            yield picture(shape, height, height + int(rng.integers(6, 24)), rng), number


def classifier():
    """The user's own network: its preprocessing is part of it, and it ends in a softmax."""
    return keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            keras.layers.Rescaling(1 / 127.5, offset=-1),
            keras.layers.Conv2D(32, 3, strides=2, padding="same", activation="relu"),
            keras.layers.Conv2D(64, 3, strides=2, padding="same", activation="relu"),
            keras.layers.Conv2D(64, 3, padding="same", activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(3, activation="softmax"),
        ],
        name="shapes",
    )


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory):
    """Folder with the trained network `model.keras` and the directory `images`."""
    folder = tmp_path_factory.mktemp("newcomer")
    for number, (image, label) in enumerate(pictures(COUNTS, seed=0)):
        path = folder / "images" / list(COUNTS)[label] / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        keras.utils.save_img(path, image, scale=False)
    # Left by a notebook; no class.
    (folder / "images" / ".ipynb_checkpoints").mkdir()
    keras.utils.set_random_seed(0)
    x, y = arrays(dict.fromkeys(COUNTS, 100), seed=1)
    model = classifier()
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=8, verbose=0)
    model.save(folder / "model.keras")
    return folder


def arrays(counts, seed):
    images, labels = zip(*pictures(counts, seed))
    return np.stack([tf.image.resize(image, (SIZE, SIZE)) for image in images]), np.array(labels)


def accuracy(model, x, y):
    return np.mean(np.argmax(model.predict(x, verbose=0), axis=-1) == y)


@pytest.fixture(scope="module")
def printed(newcomer):
    """Run the two commands of README, and return what each of them prints."""
    outputs = []
    # The model was trained for as long as it learned anything.
    memorized = "keras-distill: warning: 'distilled': Teacher repeats the labels of these examples"
    for command, warning in zip(COMMANDS, ("", memorized), strict=True):
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            patch.chdir(newcomer)
            assert main(shlex.split(command)[1:]) == 0
        warnings = err.getvalue().splitlines()
        assert len(warnings) == bool(warning) and all(line.startswith(warning) for line in warnings)
        outputs.append(out.getvalue())
    return outputs


def test_the_student_is_smaller_and_has_learned(newcomer, printed):
    small, trained = (keras.saving.load_model(newcomer / name) for name in ("small.keras", "run/student.keras"))
    assert small.count_params() == trained.count_params() < 0.3 * classifier().count_params()
    # Images that none of the models has seen.
    x, y = arrays(dict.fromkeys(COUNTS, 60), seed=2)
    assert accuracy(small, x, y) < 0.6 and accuracy(trained, x, y) > 0.85
    np.testing.assert_allclose(trained.predict(x, verbose=0).sum(axis=-1), 1, atol=1e-5)


def test_results_and_report_name_the_classes(newcomer, printed):
    results = Results.load(newcomer / "run" / "results.json")
    assert results.classes == list(COUNTS)
    assert [model.name for model in results.models] == ["teacher", "baseline", "distilled"]
    assert results.split == "test" and results.num_examples == round(0.2 * sum(COUNTS.values()))
    page = (newcomer / "run" / "report.html").read_text()
    assert all(name in page for name in COUNTS) and "ipynb" not in page


def test_the_exported_file_predicts_like_the_student(newcomer, printed):
    (path,) = (newcomer / "run" / "files").glob("distilled*.tflite")
    x, _ = arrays(dict.fromkeys(COUNTS, 5), seed=3)
    predicted = keras.saving.load_model(newcomer / "run" / "student.keras").predict(x, verbose=0)
    np.testing.assert_allclose(runtimes.runtime(path, "litert_float32")(x), predicted, atol=1e-5)


def test_the_output_says_what_was_done_and_what_comes_next(newcomer, printed, capsys, monkeypatch):
    student, distill = printed
    assert "Train the student" in student and "keras-distill distill model.keras small.keras" in student
    # 16 is the smallest batch size; 63 epochs of 8 steps are 504 steps.
    assert "124 training and 31 test examples; 63 epochs, batch size 16" in distill
    assert "Wrote student.keras, history.csv, results.json, report.html, files/ to run" in distill
    following = distill.splitlines()[-1].strip()
    assert following == "keras-distill distill --config=run/run.yaml --seeds=5 --force"
    monkeypatch.chdir(newcomer)
    shutil.copytree("run", "again")
    arguments = shlex.split(following.replace("seeds=5", "seeds=1"))[1:]
    assert main([*arguments, "--out=again"]) == 0
    assert capsys.readouterr().out.count("trained earlier") == 2


def test_scaling_twice_is_a_warning(newcomer, capsys):
    options = [str(newcomer / "model.keras"), f"--dataset={newcomer / 'images'}", f"--out={newcomer / 'scaled'}"]
    assert main(["label", *options, "--scale=1/255"]) == 0
    message = "'shapes' rescales its inputs itself, in the layer 'rescaling', and --scale does so before."
    assert message in capsys.readouterr().err
    # 1/127.5 - 1 is undone.
    network = keras.Sequential(
        [keras.Input((SIZE, SIZE, 3)), keras.layers.Rescaling(2, offset=-1), keras.layers.Flatten()]
    )
    network.save(newcomer / "unit.keras")
    options[0] = str(newcomer / "unit.keras")
    assert main(["label", *options, "--scale=1/255", f"--out={newcomer / 'unit'}"]) == 0
    assert "rescales" not in capsys.readouterr().err
    normalization = keras.layers.Normalization(mean=120.0, variance=900.0)
    keras.Sequential([keras.Input((SIZE, SIZE, 3)), normalization, keras.layers.Flatten()], name="n").save(options[0])
    assert main(["label", *options, "--scale=1/255", f"--out={newcomer / 'n'}"]) == 0
    assert "'n' rescales its inputs itself, in the layer 'normalization'" in capsys.readouterr().err


def test_directories_that_are_not_the_classes(newcomer, capsys):
    shutil.copytree(newcomer / "images", newcomer / "more")
    shutil.copytree(newcomer / "images" / "circle", newcomer / "more" / "disk")
    models = [str(newcomer / "model.keras")] * 2
    assert main(["check", *models, f"--dataset={newcomer / 'more'}"]) == 1
    assert (
        "has 4 subdirectories, circle, disk, square, triangle, but 'shapes' has 3 classes." in capsys.readouterr().err
    )
    # Fewer may be the first ones; otherwise their numbers are wrong.
    shutil.rmtree(newcomer / "more" / "disk")
    shutil.rmtree(newcomer / "more" / "square")
    assert main(["check", *models, f"--dataset={newcomer / 'more'}"]) == 3
    printed = capsys.readouterr()
    assert "has 2 subdirectories, circle, triangle, but 'shapes' has 3 classes." in printed.err
    # An empty directory keeps the place of its class.
    (newcomer / "more" / "square").mkdir()
    main(["check", *models, f"--dataset={newcomer / 'more'}"])
    printed = capsys.readouterr()
    assert "subdirectories" not in printed.err and "chance level" not in printed.out


def test_a_misspelt_path_is_called_one(newcomer, capsys):
    models = [str(newcomer / "model.keras")] * 2
    assert main(["check", *models, "--dataset=imagse"]) == 1
    assert "'imagse' is not a file or directory." in capsys.readouterr().err
