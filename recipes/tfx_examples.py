"""The examples of recipes/tfx_pipeline.py, as files that the ExampleGens of TFX read."""

import numpy as np
import tensorflow as tf

from recipes import data, tfx_models

SPLITS = ("train", "eval", "test")


def write(name, folder, most=None):
    """Writes the files of train, eval and test, once: TFX knows them by when they were written.

    Args:
        name: A data set of `recipes.data`: digits become columns of a CSV file, others records of pictures.
        folder: Where to.
        most: How many examples of each at most. Defaults to all.
    """
    if (folder / "finished").exists():
        return
    everything = getattr(data, name)()
    cut = len(everything.train[1]) * 5 // 6
    train, held_out = (data.rows(everything.train, part) for part in (slice(cut), slice(cut, None)))
    folder.mkdir(parents=True, exist_ok=True)
    for split, (images, labels) in zip(SPLITS, (train, held_out, everything.test)):
        images, labels = images[:most], labels[:most]
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
