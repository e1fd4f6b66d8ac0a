"""The data sets of the recipes, as NumPy arrays."""

import hashlib
import pathlib
from typing import NamedTuple

import keras
import numpy as np
from absl import flags

DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of prepared TFDS data sets. Defaults to TFDS' own.")
ORIGINALS = flags.DEFINE_string(
    "originals",
    None,
    "Folder of the data set's original files, such as train-images-idx3-ubyte.gz, to prepare it offline.",
)
EVALUATE_ON = flags.DEFINE_enum(
    "evaluate_on",
    "test",
    ["test", "validation"],
    "Which examples the table is about. 'validation' holds the last of the training examples out, and is for choosing "
    "settings; the test examples are not even loaded then.",
)

FASHION = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Boot")
DIGITS = tuple("0123456789")


class Data(NamedTuple):
    """A data set for classification.

    Attributes:
        train: `(inputs, labels)`. Inputs are pictures, float32 of shape `[n, height, width, 1]` from 0 to 1, or texts,
            of shape `[n]`, and what a tokenizer makes of them; labels are integers of shape `[n]`.
        test: Likewise.
        classes: Their names.
    """

    train: tuple
    test: tuple
    classes: tuple

    def head(self, count):
        """The first examples of each part, for a quick look."""
        first = slice(count)
        return self._replace(train=rows(self.train, first), test=rows(self.test, first))

    def digest(self):
        """32 hexadecimal digits of what the examples are, wherever they came from."""
        digest = hashlib.sha256()
        for array in keras.tree.flatten((self.train, self.test)):
            # Of Python's texts an array holds the addresses.
            array = array.astype(str) if array.dtype == object else array
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:32]


def rows(structure, index):
    """Some examples of a structure of arrays."""
    return keras.tree.map_structure(lambda array: array[index], structure)


def digits():
    """1,797 handwritten digits of 8x8 pixels, which come with scikit-learn: 1,297 to train on and 500 to test."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = (images[order] / 16).astype("float32").reshape(-1, 8, 8, 1), labels[order].astype("int64")
    return _parts((images[:1297], labels[:1297]), lambda: (images[1297:], labels[1297:]), held_out=297, classes=DIGITS)


def mnist():
    """70,000 handwritten digits of 28x28 pixels, 60,000 of them to train on."""
    return _parts(_tfds("mnist", "train"), lambda: _tfds("mnist", "test"), held_out=10_000, classes=DIGITS)


def fashion_mnist():
    """70,000 pictures of clothes of 28x28 pixels, 60,000 of them to train on."""
    name = "fashion_mnist"
    return _parts(_tfds(name, "train"), lambda: _tfds(name, "test"), held_out=10_000, classes=FASHION)


def movie_snippets():
    """10,566 sentences of film reviews, four in five to train on: 1 for those that people found to praise the film.

    Takes `--originals` with movieReviewSnippets_GroundTruth.txt, in which each sentence has a mean rating from -4 to 4
    (Hutto and Gilbert, 2014). Those rated 0 are left out.
    """
    name = "movieReviewSnippets_GroundTruth.txt"
    path = pathlib.Path(ORIGINALS.value or ".").expanduser() / name
    if not path.exists():
        raise SystemExit(f"{path} is not there. Pass --originals=FOLDER, the folder that holds {name}.")
    lines = [line.split("\t") for line in path.read_text(encoding="utf-8").strip().split("\n")]
    ratings = {text.strip(): float(rating) for _, rating, text in lines}
    # The file has the praise first. The order of digests is a mixture, and the same on every machine.
    texts = sorted((text for text, rating in ratings.items() if rating), key=_digest)
    texts, labels = np.array(texts), np.array([ratings[text] > 0 for text in texts], "int64")
    test, train = slice(len(texts) // 5), slice(len(texts) // 5, None)
    return _parts((texts[train], labels[train]), lambda: (texts[test], labels[test]), 2000, classes=("pans", "praises"))


def _digest(text):
    return hashlib.sha256(text.encode()).digest()


def _parts(train, test, held_out, classes):
    if EVALUATE_ON.value == "test":
        return Data(train, test(), classes)
    first, last = (rows(train, cut) for cut in (slice(-held_out), slice(-held_out, None)))
    return Data(first, last, classes)


def _tfds(name, split):
    import tensorflow_datasets as tfds

    folder = pathlib.Path(DATA_DIR.value or tfds.core.constants.DATA_DIR).expanduser()
    # TFDS names what it extracts after the original file, and MNIST and Fashion-MNIST have files of the same names: in
    # a common folder the second data set would silently be made of the first one's pictures.
    where = tfds.download.DownloadConfig(manual_dir=ORIGINALS.value, extract_dir=str(folder / "extracted" / name))
    images, labels = tfds.as_numpy(
        tfds.load(
            name,
            split=split,
            data_dir=str(folder),
            as_supervised=True,
            batch_size=-1,
            download_and_prepare_kwargs={"download_config": where},
        )
    )
    return (images / np.float32(255)).astype("float32"), labels.astype("int64")
