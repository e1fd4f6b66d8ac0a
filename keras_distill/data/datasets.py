"""Datasets by name or path, for commands, which cannot take a `tf.data.Dataset`."""

import os
import pathlib
import re
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

_ARRAY_FILES = {".npy", ".npz"}
_IMAGES = {".bmp", ".gif", ".jpeg", ".jpg", ".png"}


def open_dataset(
    source: str | os.PathLike,
    split: str = "train",
    feature: str | None = None,
    scale: float = 1.0,
    data_dir: str | os.PathLike | None = None,
    like: Callable | None = None,
) -> tf.data.Dataset:
    """Open a dataset by name or path, as single examples in a fixed order.

    The command `keras-distill label` reads the same examples for the same arguments, so that
    `open_cache(...).join(open_dataset(...))` joins the cache that it wrote.

    Example:
    >>> np.savez("train.npz", x=x, y=y)
    >>> dataset = open_dataset("train.npz", scale=1 / 255)

    Args:
        source: Name of TensorFlow Datasets, such as "mnist" or "imdb_reviews/plain_text"; or a path: a `.npy` file of
            inputs, a `.npz` file of `x` and optionally `y`, a directory that TensorFlow Datasets prepared, or a
            directory with a directory of images for each class, or of images without labels.
        split: Split of a dataset of TensorFlow Datasets, such as "test[:10%]". Defaults to "train".
        feature: Feature of a dataset of TensorFlow Datasets that becomes the inputs. None takes the first of its
            supervised keys. Defaults to None.
        scale: Factor of the inputs, e.g. 1 / 255 for uint8 images. The inputs become float32; 1 leaves them unchanged.
            Defaults to 1.
        data_dir: Directory in which TensorFlow Datasets stores its datasets. None takes the default of TensorFlow
            Datasets. Defaults to None.
        like: `keras.Model` whose input shape is the size of the images in directories. Defaults to None.

    Returns:
        A `tf.data.Dataset` of `x` or `(x, y)`.

    Raises:
        ValueError: If the source is not found or unsupported, cannot be read, or lacks the split or the feature.
    """
    path = pathlib.Path(source).expanduser()
    is_array_file = path.suffix in _ARRAY_FILES
    # An absolute path is not the name of a dataset of TensorFlow Datasets.
    if not is_array_file and (path.is_file() or (path.is_absolute() and not path.is_dir())):
        raise ValueError(
            f"Dataset not found or unsupported: '{source}'. Pass a .npy/.npz file, an image directory, or a TensorFlow "
            "Datasets name."
        )
    if (split != "train" or feature is not None) and not has_splits(source):
        given = f"split '{split}'" if split != "train" else f"feature '{feature}'"
        raise ValueError(
            f"'{source}' has no splits or features to choose from; only datasets of TensorFlow Datasets have. "
            f"Received: {given}"
        )
    if is_array_file:
        dataset = _from_arrays(path)
    elif has_splits(source):
        dataset = _from_tfds(source, path, split, feature, data_dir)
    else:
        dataset = _from_images(path, like)
    if scale != 1:
        _check_real(source, dataset)
    return dataset if scale == 1 else dataset.map(lambda *element: _scaled(element, scale), tf.data.AUTOTUNE)


def has_splits(source: str) -> bool:
    """Return whether a source of `open_dataset` is of TensorFlow Datasets, by name or prepared in a directory.

    Args:
        source: As for `open_dataset`.
    """
    path = pathlib.Path(source).expanduser()
    return path.suffix not in _ARRAY_FILES and (not path.is_dir() or any(path.glob("dataset_info.json")))


def class_names(source: str | os.PathLike, data_dir: str | os.PathLike | None = None) -> list[str] | None:
    """Return the class names of a dataset, in the order of the class indices; None if it has none.

    Args:
        source: As for `open_dataset`.
        data_dir: As for `open_dataset`. Defaults to None.
    """
    path = pathlib.Path(source).expanduser()
    if path.suffix in _ARRAY_FILES:
        return None
    if not has_splits(source):
        # Hidden directories are none of a class, as in `_from_images`.
        return sorted(child.name for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))
    # The import takes seconds.
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(path) if path.is_dir() else tfds.builder(os.fspath(source), data_dir=data_dir)
    keys = builder.info.supervised_keys
    return list(getattr(builder.info.features[keys[1]], "names", None) or []) or None if keys else None


def _from_arrays(path):
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray) != (path.suffix == ".npy"):
            raise ValueError(f"the content is not that of a {path.suffix} file.")
        names = ["x", "y"] if path.suffix == ".npz" else []
        arrays = tuple(content[name] for name in names if name in content) or (content,)
    except Exception as error:
        # For broken files, and for other kinds of files, NumPy raises errors of many classes.
        raise ValueError(f"'{path}' cannot be read: {error or type(error).__name__}") from error
    if path.suffix == ".npz" and "x" not in content:
        raise ValueError(
            f"'{path}' has no array called 'x'. Save the inputs under this name: `np.savez(path, x=x, y=y)`. Received: "
            f"{list(content)}"
        )
    if any(array.ndim == 0 for array in arrays):
        raise ValueError(f"'{path}' holds a single number. Save arrays with one row for each example.")
    if len({len(array) for array in arrays}) > 1:
        raise ValueError(f"'{path}' has {len(arrays[0]):,} inputs, but {len(arrays[1]):,} labels.")
    try:
        return tf.data.Dataset.from_tensor_slices(arrays if len(arrays) > 1 else arrays[0])
    except (TypeError, ValueError) as error:
        dtypes = ", ".join(array.dtype.name for array in arrays)
        raise ValueError(f"'{path}' holds arrays of dtype {dtypes}, which TensorFlow does not support.") from error


def _from_images(directory, like):
    is_labeled = any(path.suffix.lower() in _IMAGES for path in directory.glob("*/*"))
    if not is_labeled and not any(path.suffix.lower() in _IMAGES for path in directory.glob("*")):
        raise ValueError(
            f"'{directory}' holds neither a directory of images for each class, nor images, nor a dataset that "
            "TensorFlow Datasets prepared."
        )
    inputs = getattr(like, "inputs", None) or []
    shape = tuple(inputs[0].shape[1:]) if len(inputs) == 1 else ()
    if len(shape) != 3 or None in shape or shape[-1] not in (1, 3, 4):
        raise ValueError(
            f"The images of '{directory}' are resized to the input of a model, which must be one image of fixed size: "
            f"(height, width, channels), with 1, 3 or 4 channels. Received: an input of shape {shape}"
        )

    def load(path):
        # The error of TensorFlow's own function in a graph would not name the file.
        (image,) = tf.numpy_function(lambda path: _decoded(path, shape[-1]), [path], [tf.uint8])
        image.set_shape((None, None, shape[-1]))
        return tf.ensure_shape(tf.image.resize(image, shape[:2]), shape)

    listed = keras.utils.image_dataset_from_directory(
        directory, labels="inferred" if is_labeled else None, batch_size=None, shuffle=False, verbose=False
    )
    paths = list(listed.file_paths)
    if not is_labeled:
        return tf.data.Dataset.from_tensor_slices(paths).map(load, tf.data.AUTOTUNE)
    labels = [listed.class_names.index(pathlib.Path(path).relative_to(directory).parts[0]) for path in paths]

    files = tf.data.Dataset.from_tensor_slices((paths, tf.constant(labels, "int32")))
    return files.map(lambda path, label: (load(path), label), num_parallel_calls=tf.data.AUTOTUNE)


def _decoded(path, channels):
    try:
        return tf.io.decode_image(tf.io.read_file(path), channels, expand_animations=False).numpy()
    except (tf.errors.OpError, OSError) as error:
        # TensorFlow surrounds the reason with the name of its operation.
        reason = re.sub(r"\{\{.*?\}\}|\[Op:.*", "", str(error)).strip().rstrip(".")
        raise ValueError(
            f"'{path.decode()}' cannot be read as an image: {reason}. Replace or delete the file."
        ) from error


def _from_tfds(source, path, split, feature, data_dir):
    # The import takes seconds.
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(path) if path.is_dir() else tfds.builder(source, data_dir=data_dir)
        if not path.is_dir():
            builder.download_and_prepare()
        # Shuffled files would be interleaved in another order on another machine.
        dataset = builder.as_dataset(split=split, shuffle_files=False)
    except Exception as error:
        # TensorFlow Datasets raises errors of many classes, and some do not name the dataset.
        missing = "" if path.is_dir() else f"'{source}' is not a file or directory. "
        raise ValueError(f"{missing}TensorFlow Datasets cannot open '{source}', split '{split}': {error}") from error
    features = builder.info.features
    supervised_keys = builder.info.supervised_keys
    feature = feature or (supervised_keys[0] if supervised_keys else None)
    if feature is None:
        raise ValueError(f"'{source}' does not name its supervised input. Pass `feature`, one of {list(features)}.")
    if feature not in features:
        raise ValueError(f"'{source}' has no feature '{feature}'. Choose one of {list(features)}.")
    label = supervised_keys[1] if supervised_keys and supervised_keys[1] != feature else None
    return dataset.map(lambda example: (example[feature], example[label]) if label else example[feature])


def _check_real(source, dataset):
    spec = dataset.element_spec
    for inputs in keras.tree.flatten(spec[0] if isinstance(spec, tuple) else spec):
        if inputs.dtype.is_complex:
            raise ValueError(
                f"'{source}' holds inputs of dtype {inputs.dtype.name}, which cannot be scaled to float32. Pass "
                "`scale=1`, or save real and imaginary parts as channels of real numbers."
            )


def _scaled(element, scale):
    inputs, *labels = element
    inputs = tf.cast(inputs, "float32") * scale
    return (inputs, *labels) if labels else inputs
