"""Noise datasets in the file format of TensorFlow Datasets."""

import numpy as np
import tensorflow_datasets as tfds


def prepare(data_dir, name, counts):
    """Write a dataset of labeled noise images under the name of a real dataset.

    Args:
        data_dir: Data folder of TensorFlow Datasets.
        name: "mnist" or "fashion_mnist".
        counts: `{split: number of examples}`.

    Returns:
        Folder of the dataset.
    """
    info = tfds.builder(name, data_dir=data_dir).info
    folder = data_dir / name / str(info.version)
    splits = {split: _noise(count) for split, count in counts.items()}

    class Noise(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = info.version

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=info.features, supervised_keys=("image", "label"))

        def _split_generators(self, manager):
            return {split: enumerate(examples) for split, examples in splits.items()}

        def _generate_examples(self):
            raise NotImplementedError

    Noise.name = name
    Noise(data_dir=data_dir).download_and_prepare()
    return folder


def _noise(count):
    random = np.random.default_rng(count)
    return [
        {"image": random.integers(0, 255, (28, 28, 1), "uint8"), "label": int(label)}
        for label in random.integers(0, 10, count)
    ]
