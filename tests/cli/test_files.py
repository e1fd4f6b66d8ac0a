"""Invalid files: every command fails with one line that names the problem, and writes nothing."""

import pickle
import re
import shutil
import zipfile

import keras
import numpy as np
import pytest

from keras_distill.cache import label
from keras_distill.cli import main
from tests.support.helpers import data, features, mlp

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))


def written(path, content):
    path.write_bytes(content)
    return path


def arrays(path, **arrays):
    np.savez(path, **arrays)
    return path


def one_array(path):
    with path.open("wb") as file:
        np.save(file, np.zeros((48, 8), "float32"))
    return path


def archive(path, **entries):
    with zipfile.ZipFile(path, "w") as file:
        for name, content in entries.items():
            file.writestr(name.replace("_json", ".json"), content)
    return path


def with_code(path):
    """Save a model with a Lambda layer whose code creates a file."""
    mark = str(path.with_suffix(".ran"))
    layer = keras.layers.Lambda(lambda x: (open(mark, "w").close(), x)[1], output_shape=(8,))
    keras.Sequential([keras.Input((8,)), layer, keras.layers.Dense(3)]).save(path)
    path.with_suffix(".ran").unlink(missing_ok=True)
    return path


def hdf5(path):
    mlp().save_weights(path.with_suffix(".weights.h5"))
    return path.with_suffix(".weights.h5").rename(path)


def truncated(path, whole):
    content = whole.read_bytes()
    return written(path, content[: len(content) // 2])


def damaged(path):
    """Save a model and change bytes in the middle of its file, those of its weights."""
    mlp().save(path)
    content = bytearray(path.read_bytes())
    middle = slice(len(content) // 2, len(content) // 2 + 2000)
    content[middle] = bytes(255 - byte for byte in content[middle])
    return written(path, content)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Valid files: two models, data and a cache."""
    folder = tmp_path_factory.mktemp("files")
    x, y = data(48)
    teacher = mlp(16, name="teacher")
    teacher.save(folder / "teacher.keras")
    mlp(name="student").save(folder / "student.keras")
    arrays(folder / "train.npz", x=x, y=y)
    label(teacher, x, folder / "cache", verbose=0)
    return folder


MODELS = {
    "missing": (lambda path, folder: path, "file not found"),
    "empty": (lambda path, folder: written(path, b""), "not a .keras file"),
    "a PNG": (lambda path, folder: written(path, PNG), "not a .keras file"),
    "a folder": (lambda path, folder: path.mkdir() or path, "is a directory"),
    "an HDF5": (lambda path, folder: hdf5(path), "not a .keras file"),
    "another zip": (lambda path, folder: archive(path, letter="Dear"), "not a Keras model"),
    "no weights": (lambda path, folder: archive(path, config_json="{}"), "not a Keras model"),
    "truncated": (lambda path, folder: truncated(path, folder / "teacher.keras"), "not a .keras file"),
    "damaged": (lambda path, folder: damaged(path), "is corrupted"),
    "another name": (
        lambda path, folder: shutil.copy(folder / "teacher.keras", path.with_suffix(".zip")),
        "not a .keras",
    ),
    "code": (lambda path, folder: with_code(path), "contains code.*not run"),
}
ON_MODELS = {
    "inspect": ["inspect", "{bad}"],
    "student": ["student", "{bad}", "--width=0.5", "--out={out}/student.keras"],
    "label": ["label", "{bad}", "--dataset={folder}/train.npz", "--out={out}"],
    "check of a cache": ["check", "{folder}/cache", "--teacher={bad}"],
    "check, teacher": ["check", "{bad}", "{folder}/student.keras", "--dataset={folder}/train.npz"],
    "check, student": ["check", "{folder}/teacher.keras", "{bad}", "--dataset={folder}/train.npz"],
    "distill, teacher": ["distill", "{bad}", "{folder}/student.keras", "--dataset={folder}/train.npz", "--out={out}"],
    "distill, student": ["distill", "{folder}/teacher.keras", "{bad}", "--dataset={folder}/train.npz", "--out={out}"],
    "export": ["export", "{bad}", "--dataset={folder}/train.npz", "--out={out}"],
}
X, Y = data(48)
DATA = {
    "missing": (lambda path: path, "No such file"),
    "empty": (lambda path: written(path, b""), "cannot be read"),
    "a PNG": (lambda path: written(path, PNG), "cannot be read"),
    "a PNG by its name": (lambda path: written(path.with_suffix(".png"), PNG), "Dataset not found or unsupported"),
    "a folder": (lambda path: path.mkdir() or path, "cannot be read"),
    "an empty folder": (
        lambda path: path.with_suffix("").mkdir() or path.with_suffix(""),
        "holds neither a directory of images",
    ),
    "another zip": (lambda path: archive(path, letter="Dear"), "no array called 'x'"),
    "one array": (lambda path: one_array(path), "not that of a .npz file"),
    "other names": (lambda path: arrays(path, images=X, labels=Y), "no array called 'x'.*Received: .*images"),
    "objects": (lambda path: arrays(path, x=np.array([{}, []], object)), "allow_pickle"),
    "a pickle": (lambda path: written(path, pickle.dumps([1, 2])), "cannot be read"),
    "a number": (lambda path: arrays(path, x=np.float32(1)), "a single number"),
    "records": (lambda path: arrays(path, x=np.zeros(8, [("a", "f4"), ("b", "i4")])), "TensorFlow does not support"),
    "no example": (lambda path: arrays(path, x=X[:0], y=Y[:0]), "holds no example"),
    "uneven": (lambda path: arrays(path, x=X, y=Y[1:]), "48 inputs, but 47 labels"),
    "another shape": (lambda path: arrays(path, x=features(48, 5), y=Y), r"shape \(5,\), but '\w+' takes \(8,\)"),
    "texts": (lambda path: arrays(path, x=np.array(["a", "b"] * 24), y=Y), r"shape \(\)|dtype string"),
    "truncated": (lambda path: truncated(path, arrays(path.with_stem("whole"), x=X, y=Y)), "cannot be read"),
}
ON_DATA = {
    "label": ["label", "{folder}/teacher.keras", "--dataset={bad}", "--out={out}"],
    "check": ["check", "{folder}/teacher.keras", "{folder}/student.keras", "--dataset={bad}"],
    "distill": ["distill", "{folder}/teacher.keras", "{folder}/student.keras", "--dataset={bad}", "--out={out}"],
    "distill, validation": [
        *("distill", "{folder}/teacher.keras", "{folder}/student.keras", "--dataset={folder}/train.npz"),
        *("--validation={bad}", "--out={out}"),
    ],
    "export": ["export", "{folder}/student.keras", "--dataset={bad}", "--out={out}"],
}


def assert_fails(capsys, arguments, expected, **paths):
    """Run a command and assert that it fails with one line of output."""
    assert main([argument.format(**paths) for argument in arguments]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("keras-distill: error: ") and len(printed.splitlines()) == 1, printed
    assert re.search(expected, printed) and "Traceback" not in printed, printed
    assert len(printed) < 700, printed


@pytest.mark.parametrize("command", ON_MODELS)
@pytest.mark.parametrize("bad", MODELS)
def test_invalid_model(command, bad, folder, tmp_path, capsys):
    make, expected = MODELS[bad]
    path = make(tmp_path / "bad.keras", folder)
    assert_fails(capsys, ON_MODELS[command], expected, bad=path, folder=folder, out=tmp_path / "out")
    assert not (tmp_path / "out").exists() and not path.with_suffix(".ran").exists()


@pytest.mark.parametrize("command", ON_DATA)
@pytest.mark.parametrize("bad", DATA)
def test_invalid_dataset(command, bad, folder, tmp_path, capsys):
    make, expected = DATA[bad]
    path = make(tmp_path / "bad.npz")
    assert_fails(capsys, ON_DATA[command], expected, bad=path, folder=folder, out=tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.keras"))


@pytest.mark.parametrize("option", ["label", "distill", "export"])
@pytest.mark.parametrize(
    ("out", "expected"),
    [
        ("{folder}/train.npz", "File exists|Not a directory|is not a directory"),
        ("/proc/no/such", "No such file|/proc/no"),
    ],
)
def test_output_directory_that_cannot_be_written_to(option, out, expected, folder, capsys):
    # Root can write to all other directories.
    arguments = [argument.replace("{out}", out) for argument in ON_DATA[option]]
    assert_fails(capsys, arguments, expected, bad=folder / "train.npz", folder=folder)
    assert np.load(folder / "train.npz")["x"].shape == (48, 8)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "neither a results.json"),
        ({"results.json": b""}, "not a complete results.json of this version"),
        ({"results.json": PNG}, "not a complete results.json of this version"),
        ({"results.json": b"[1, 2]"}, "not a complete results.json of this version"),
        ({"results.json": b'{"title": "x"}'}, "not a complete results.json of this version"),
        ({"oracle.json": b"{}"}, "cannot write a report"),
        ({"oracle.json": PNG}, "cannot write a report"),
    ],
)
def test_invalid_run(content, expected, tmp_path, capsys):
    run = tmp_path / "run"
    if content is not None:
        run.mkdir()
        for name, value in content.items():
            (run / name).write_bytes(value)
    assert_fails(capsys, ["report", "{run}"], expected, run=run)


@pytest.mark.parametrize("damage", ["missing", "no manifest", "a PNG for a manifest", "a shard is missing", "a file"])
def test_invalid_cache(damage, folder, tmp_path, capsys):
    cache = tmp_path / "cache"
    if damage != "missing":
        shutil.copytree(folder / "cache", cache)
    if damage == "no manifest":
        (cache / "manifest.json").unlink()
    if damage == "a PNG for a manifest":
        (cache / "manifest.json").write_bytes(PNG)
    if damage == "a shard is missing":
        next(cache.glob("*output.npy")).unlink()
    if damage == "a file":
        shutil.rmtree(cache)
        cache.write_bytes(PNG)
    assert_fails(capsys, ["check", "{cache}"], "cannot use", cache=cache)
    if damage in ("missing", "no manifest"):
        return
    learn = ["distill", "{folder}/teacher.keras", "{folder}/student.keras", "--dataset={folder}/train.npz"]
    assert_fails(
        capsys, [*learn, "--cache={cache}", "--out={out}"], ".", folder=folder, cache=cache, out=tmp_path / "out"
    )
