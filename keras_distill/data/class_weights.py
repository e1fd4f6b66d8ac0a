"""Class weights of datasets with missing labels."""

import keras
import tensorflow as tf


def class_weighted(dataset: tf.data.Dataset, class_weight: dict[int, float]) -> tf.data.Dataset:
    """Return the dataset with the weight of its class as sample weight of each example.

    Keras looks up the weights of datasets in a table of the classes in `class_weight`, which fails for a missing label;
    for arrays it takes the weight 1 for other classes, as here.

    Args:
        dataset: Batches `(x, y)`, where `y` is one tensor of class indices or one-hot labels.
        class_weight: `{class index: weight}`.

    Returns:
        Batches `(x, y, sample_weight)`, with weights of shape `[batch]`.

    Raises:
        ValueError: For a dataset with sample weights, without labels, or with the labels of several outputs or of
            unknown rank.
    """
    size = max(class_weight) + 1
    table = tf.constant([class_weight.get(index, 1.0) for index in range(size)], "float32")

    def weighted(*element):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(element)
        if sample_weight is not None:
            raise ValueError("Pass either `class_weight` or a dataset with sample weights.")
        if y is None or keras.tree.is_nested(y):
            raise ValueError("`class_weight` needs a dataset with the labels of a single output.")
        if y.shape.rank is None:
            raise ValueError(
                "`class_weight` needs labels of known rank. Pass `output_signature` to `Dataset.from_generator`, such "
                "as tf.TensorSpec([None], tf.int64) for the labels."
            )
        return x, y, _weights(table, y)

    return dataset.map(weighted, num_parallel_calls=tf.data.AUTOTUNE)


def _weights(table, labels):
    missing = tf.math.is_nan(labels) if labels.dtype.is_floating else tf.zeros_like(labels, tf.bool)
    if labels.shape.rank > 1:
        missing = tf.reduce_any(missing, axis=-1)
        labels = labels[..., 0] if labels.shape[-1] == 1 else tf.argmax(labels, axis=-1)
    labels = tf.cast(tf.round(labels) if labels.dtype.is_floating else labels, "int32")
    size = tf.shape(table)[0]
    in_table = ~missing & (labels >= 0) & (labels < size)
    return tf.where(in_table, tf.gather(table, tf.clip_by_value(labels, 0, size - 1)), 1.0)
