"""How a teacher's activations lie in examples, and how the Schema of these tells."""

import json

import tensorflow as tf
from tensorflow_metadata.proto.v0 import schema_pb2

from keras_distill.cache import packing

PREFIX = "teacher/"
_TYPES = {tf.float32: schema_pb2.FLOAT, tf.int64: schema_pb2.INT, tf.string: schema_pb2.BYTES}


def extended(schema, stored_taps):
    """A Schema with the features of a teacher's activations.

    Args:
        schema: The `Schema` of the examples without them.
        stored_taps: `{tap: StoredTap}`. Each feature has the JSON of its `StoredTap` as a comment, since a Schema
            cannot represent half precision or top-k classes.

    Raises:
        ValueError: If the examples have such features already.
    """
    result = schema_pb2.Schema()
    result.CopyFrom(schema)
    there = {feature.name for feature in schema.feature}
    for tap, stored in stored_taps.items():
        for key, parsed in parsing({tap: stored}).items():
            if key in there:
                raise ValueError(
                    f"The Schema has a feature '{key}' already. Give each teacher a name of its own, such as "
                    "TeacherLabeller(teacher='wide')."
                )
            feature = result.feature.add(name=key, type=_TYPES[parsed.dtype])
            feature.presence.min_fraction = 1.0
            feature.presence.min_count = 1
            feature.shape.dim.extend(schema_pb2.FixedShape.Dim(size=size) for size in parsed.shape)
            feature.annotation.comment.append(json.dumps({"tap": tap, **stored.to_json()}))
    return result


def stored_taps_from_schema(schema):
    """Return the `{tap: StoredTap}` that `extended` added to a Schema."""
    stored_taps = {}
    for feature in schema.feature:
        if feature.name.startswith(PREFIX) and feature.annotation.comment:
            values = json.loads(feature.annotation.comment[0])
            stored_taps[values["tap"]] = packing.StoredTap.from_json(values)
    return stored_taps


def teacher(stored_taps):
    """Return the `CachedTeacher` of the activations that `decode` returns."""
    return packing.cached_teacher(stored_taps)


def encode(activations, stored_taps):
    """What a batch of `{tap: tensor}` adds to its examples: for each one a dictionary `{key: tf.train.Feature}`.

    Raises:
        ValueError: For numbers that are not finite, or not in the precision in which they are kept.
    """
    columns = {}
    for tap, stored in stored_taps.items():
        tensors = stored.encode(tap, activations[tap])
        for field, spec in stored.fields(tap).items():
            if not spec.dtype.is_integer and not tf.reduce_all(tf.math.is_finite(tensors[field])):
                raise ValueError(f"What the teacher says at '{tap}' is not finite in {stored.dtype}.")
            columns[PREFIX + field] = [_feature(row, spec.dtype) for row in packing.to_numpy(tensors[field])]
    return [dict(zip(columns, row)) for row in zip(*columns.values())]


def parsing(stored_taps):
    """What `tf.io.parse_example` needs to know of them, `{key: tf.io.FixedLenFeature}`."""
    return {PREFIX + field: _parsed(spec) for field, spec in packing.all_fields(stored_taps).items()}


def decode(parsed, stored_taps):
    """Of a batch of parsed examples, what the `teacher` takes."""
    tensors = {}
    for field, spec in packing.all_fields(stored_taps).items():
        tensor = parsed[PREFIX + field]
        if tensor.dtype == tf.string:
            # TensorFlow decodes no bfloat16, but the integers that have its bits.
            raw = tf.io.decode_raw(tensor, tf.uint16 if spec.dtype == tf.bfloat16 else spec.dtype)
            tensor = tf.bitcast(tf.reshape(raw, (-1, *spec.shape)), spec.dtype)
        tensors[field] = tensor
    return {tap: stored.decode(tap, tensors) for tap, stored in stored_taps.items()}


def _parsed(spec):
    if spec.dtype.is_integer:
        return tf.io.FixedLenFeature(list(spec.shape), tf.int64)
    # Floats of an example have four bytes: shorter ones are kept as their bytes.
    if spec.dtype == tf.float32:
        return tf.io.FixedLenFeature(list(spec.shape), tf.float32)
    return tf.io.FixedLenFeature([], tf.string)


def _feature(row, dtype):
    if dtype.is_integer:
        return tf.train.Feature(int64_list=tf.train.Int64List(value=row.ravel().tolist()))
    if dtype == tf.float32:
        return tf.train.Feature(float_list=tf.train.FloatList(value=row.ravel()))
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[row.astype(row.dtype.newbyteorder("<")).tobytes()]))
