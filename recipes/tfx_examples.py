"""Input files for recipes/tfx_pipeline.py: CSV files or TFRecords for the ExampleGens of TFX."""

import pathlib

import numpy as np
import tensorflow as tf

from . import data, tfx_models

SPLITS = ("train", "eval", "test")


def write(name: str, folder: pathlib.Path, limit: int | None = None) -> None:
    """Write the files of the splits train, eval and test, unless they exist.

    They are written only once, because TFX fingerprints input files by their modification time.

    Args:
        name: A dataset of `recipes.data`. "digits" becomes CSV files with one column per pixel, any other dataset
            TFRecords of images.
        folder: Output directory.
        limit: Maximum number of examples in each split. Defaults to None: all examples.
    """
    if (folder / "finished").exists():
        return
    dataset = getattr(data, name)()
    num_train = len(dataset.train[1]) * 5 // 6
    train, validation = (data.rows(dataset.train, part) for part in (slice(num_train), slice(num_train, None)))
    folder.mkdir(parents=True, exist_ok=True)
    for split, (images, labels) in zip(SPLITS, (train, validation, dataset.test)):
        images, labels = images[:limit], labels[:limit]
        (_write_csv if name == "digits" else _write_records)(folder, split, images, labels)
    (folder / "finished").touch()


def _write_csv(folder, split, images, labels):
    lines = [",".join([*tfx_models.PIXELS, "label"])]
    lines += [
        ",".join(f"{16 * pixel:g}" for pixel in image.ravel()) + f",{label}" for image, label in zip(images, labels)
    ]
    (folder / f"{split}.csv").write_text("\n".join(lines) + "\n")


def _write_records(folder, split, images, labels):
    with tf.io.TFRecordWriter(str(folder / f"{split}.tfrecord")) as writer:
        for image, label in zip(images, labels):
            image = tf.train.BytesList(value=[np.uint8(np.round(255 * image)).tobytes()])
            features = {
                "image": tf.train.Feature(bytes_list=image),
                "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
