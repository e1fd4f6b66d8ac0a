"""Data sets by name or path, for commands, which cannot be given a `tf.data.Dataset`."""

import pathlib

import keras
import numpy as np
import tensorflow as tf

_IMAGES = {".bmp", ".gif", ".jpeg", ".jpg", ".png"}


def open_dataset(source, split="train", feature=None, scale=1.0, data_dir=None, like=None):
    """The examples that a source holds, one by one, always in the same order.

    What the command `keras-distill label` reads is what this gives for the same arguments; so a cache that it wrote is
    joined to `open_dataset(...)`.

    Args:
        source: A name of TensorFlow Datasets, such as "mnist" or "imdb_reviews/plain_text"; or a path: a `.npy` file of
            inputs, a `.npz` file of `x` and perhaps `y`, a folder that TensorFlow Datasets prepared, or a folder with
            a folder of pictures for each class.
        split: Of a data set of TensorFlow Datasets: "train", "test[:10%]".
        feature: Which of its features are the inputs; by default the first of those that it names as supervised.
        scale: What the inputs are multiplied with, such as 1 / 255 for pictures. They are float32 then, and stay as
            they are with 1.
        data_dir: Where TensorFlow Datasets keeps its data sets; None for its own place.
        like: A `keras.Model` whose input tells the size of pictures in folders.

    Returns:
        A `tf.data.Dataset` of `x` or `(x, y)`.

    Raises:
        ValueError: If the source is nothing of this, or holds no such feature.
    """
    path = pathlib.Path(source).expanduser()
    if path.is_file() and path.suffix not in (".npy", ".npz"):
        raise ValueError(f"'{source}' is no data set. Give a .npy or .npz file, a folder, or a name.")
    if path.suffix in (".npy", ".npz"):
        dataset = _from_arrays(path)
    elif path.is_dir() and not list(path.glob("dataset_info.json")):
        dataset = _from_pictures(path, like)
    elif path.is_dir() or not path.is_absolute():
        dataset = _from_tfds(source, path, split, feature, data_dir)
    else:
        raise ValueError(f"'{source}' is not there.")
    return dataset if scale == 1 else dataset.map(lambda *element: _scaled(element, scale), tf.data.AUTOTUNE)


def _from_arrays(path):
    try:
        held = np.load(path, allow_pickle=False)
        if isinstance(held, np.ndarray) != (path.suffix == ".npy"):
            raise ValueError(f"it is no {path.suffix} file.")
        names = ["x", "y"] if path.suffix == ".npz" else []
        arrays = tuple(held[name] for name in names if name in held) or (held,)
    except Exception as error:
        # Of a file that is broken, or of another kind, NumPy raises errors of many kinds.
        raise ValueError(f"'{path}' cannot be read: {error or type(error).__name__}") from error
    if path.suffix == ".npz" and "x" not in held:
        raise ValueError(f"'{path}' has no array called 'x'. There: {list(held)}.")
    if any(array.ndim == 0 for array in arrays):
        raise ValueError(f"'{path}' holds a single number where there should be one for each example.")
    if len({len(array) for array in arrays}) > 1:
        raise ValueError(f"'{path}' has {len(arrays[0]):,} inputs, but {len(arrays[1]):,} labels.")
    try:
        return tf.data.Dataset.from_tensor_slices(arrays if len(arrays) > 1 else arrays[0])
    except (TypeError, ValueError) as error:
        dtypes = ", ".join(array.dtype.name for array in arrays)
        raise ValueError(f"'{path}' holds {dtypes}, which TensorFlow cannot take.") from error


def _from_pictures(folder, like):
    if not any(path.suffix.lower() in _IMAGES for path in folder.glob("*/*")):
        raise ValueError(f"'{folder}' holds neither pictures, in a folder for each class, nor a prepared data set.")
    inputs = getattr(like, "inputs", None) or []
    shape = tuple(inputs[0].shape[1:]) if len(inputs) == 1 else ()
    if len(shape) != 3 or None in shape or shape[-1] not in (1, 3, 4):
        raise ValueError(f"The pictures of '{folder}' need a model that takes one of a known size. It takes: {shape}.")
    return keras.utils.image_dataset_from_directory(
        folder,
        image_size=shape[:2],
        color_mode={1: "grayscale", 3: "rgb", 4: "rgba"}[shape[-1]],
        batch_size=None,
        shuffle=False,
        verbose=False,
    )


def _from_tfds(source, path, split, feature, data_dir):
    # It takes seconds to import.
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(path) if path.is_dir() else tfds.builder(source, data_dir=data_dir)
        if not path.is_dir():
            builder.download_and_prepare()
        # In order: files that are read in turns would come in another one on another machine.
        dataset = builder.as_dataset(split=split, shuffle_files=False)
    except Exception as error:
        # It raises errors of its own, some of which do not say what they are about.
        raise ValueError(f"'{source}', split '{split}', cannot be opened by TensorFlow Datasets: {error}") from error
    features = builder.info.features
    named = builder.info.supervised_keys
    feature = feature or (named[0] if named else None)
    if feature is None or feature not in features:
        raise ValueError(f"'{source}' has no feature '{feature}'. Choose one of {list(features)}.")
    label = named[1] if named and named[1] != feature else None
    return dataset.map(lambda example: (example[feature], example[label]) if label else example[feature])


def _scaled(element, scale):
    inputs, *labels = element
    inputs = tf.cast(inputs, "float32") * scale
    return (inputs, *labels) if labels else inputs
