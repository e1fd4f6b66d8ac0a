"""Encoding of teacher activations in `tf.train.Example` records, and their description in a TFX Schema."""

import json
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from tensorflow_metadata.proto.v0 import schema_pb2

from keras_distill.cache import packing
from keras_distill.cache.packing import StoredTap
from keras_distill.types import Structure, Tensor

PREFIX = "teacher/"
_TYPES = {tf.float32: schema_pb2.FLOAT, tf.int64: schema_pb2.INT, tf.string: schema_pb2.BYTES}


def extend_schema(schema: schema_pb2.Schema, stored_taps: Mapping[str, StoredTap]) -> schema_pb2.Schema:
    """Return a Schema extended by the features of a teacher's activations.

    Args:
        schema: `Schema` of the examples without activations. It is not modified.
        stored_taps: `{tap: StoredTap}`. Each feature carries the JSON of its `StoredTap` as a comment, because a Schema
            cannot express half precision or top-k activations.

    Returns:
        A new `Schema`.

    Raises:
        ValueError: If the Schema already has features of these names.
    """
    result = schema_pb2.Schema()
    result.CopyFrom(schema)
    existing = {feature.name for feature in schema.feature}
    for tap, stored in stored_taps.items():
        for key, spec in parsing_specs({tap: stored}).items():
            if key in existing:
                raise ValueError(
                    f"The Schema already has the feature '{key}'. Give each teacher a different name, such as "
                    "TeacherLabeller(teacher='wide')."
                )
            feature = result.feature.add(name=key, type=_TYPES[spec.dtype])
            feature.presence.min_fraction = 1.0
            feature.presence.min_count = 1
            feature.shape.dim.extend(schema_pb2.FixedShape.Dim(size=size) for size in spec.shape)
            feature.annotation.comment.append(json.dumps({"tap": tap, **stored.to_json()}))
    return result


def stored_taps_from_schema(schema: schema_pb2.Schema) -> dict[str, StoredTap]:
    """Return the stored taps that `extend_schema` added to a Schema, `{tap: StoredTap}`.

    Args:
        schema: `Schema` of examples with or without teacher activations.
    """
    stored_taps = {}
    for feature in schema.feature:
        if feature.name.startswith(PREFIX) and feature.annotation.comment:
            values = json.loads(feature.annotation.comment[0])
            stored_taps[values["tap"]] = StoredTap.from_json(values)
    return stored_taps


def encode(
    activations: Mapping[str, Tensor], stored_taps: Mapping[str, StoredTap]
) -> list[dict[str, tf.train.Feature]]:
    """Encode a batch of activations as features of its examples.

    Args:
        activations: `{tap: tensor}` of a batch.
        stored_taps: `{tap: StoredTap}`.

    Returns:
        List of `{key: tf.train.Feature}`, one dictionary per example.

    Raises:
        ValueError: If a value is NaN or infinite, or becomes infinite in the dtype in which it is stored.
    """
    columns = {}
    for tap, stored in stored_taps.items():
        tensors = stored.encode(tap, activations[tap])
        for field, spec in stored.fields(tap).items():
            if not spec.dtype.is_integer and not tf.reduce_all(tf.math.is_finite(tensors[field])):
                raise ValueError(
                    f"The teacher output '{tap}' has values that are not finite in {stored.dtype}. Store it as "
                    "float32, such as by TeacherLabeller(dtype='float32'), or correct the teacher if it outputs NaN or "
                    "infinity."
                )
            columns[PREFIX + field] = [_feature(row, spec.dtype) for row in packing.to_numpy(tensors[field])]
    return [dict(zip(columns, row)) for row in zip(*columns.values())]


def parsing_specs(stored_taps: Mapping[str, StoredTap]) -> dict[str, tf.io.FixedLenFeature]:
    """Return the parsing specification for `tf.io.parse_example`, `{key: tf.io.FixedLenFeature}`.

    Args:
        stored_taps: `{tap: StoredTap}`.
    """
    return {PREFIX + field: _parsing_spec(spec) for field, spec in packing.all_fields(stored_taps).items()}


def decode(parsed: Mapping[str, Any], stored_taps: Mapping[str, StoredTap]) -> dict[str, Structure]:
    """Return the activations in a batch of parsed examples, as a `CachedTeacher` takes them.

    Args:
        parsed: `{key: tensor}`, as `tf.io.parse_example` returns it for `parsing_specs`.
        stored_taps: `{tap: StoredTap}`.
    """
    tensors = {}
    for field, spec in packing.all_fields(stored_taps).items():
        tensor = parsed[PREFIX + field]
        if tensor.dtype == tf.string:
            # `decode_raw` does not support bfloat16. Decode its bits as integers and reinterpret them.
            raw = tf.io.decode_raw(tensor, tf.uint16 if spec.dtype == tf.bfloat16 else spec.dtype)
            tensor = tf.bitcast(tf.reshape(raw, (-1, *spec.shape)), spec.dtype)
        tensors[field] = tensor
    return {tap: stored.decode(tap, tensors) for tap, stored in stored_taps.items()}


def _parsing_spec(spec):
    if spec.dtype.is_integer:
        return tf.io.FixedLenFeature(list(spec.shape), tf.int64)
    # The floats of a tf.train.Example have four bytes. Shorter ones are stored as raw bytes.
    if spec.dtype == tf.float32:
        return tf.io.FixedLenFeature(list(spec.shape), tf.float32)
    return tf.io.FixedLenFeature([], tf.string)


def _feature(row, dtype):
    if dtype.is_integer:
        return tf.train.Feature(int64_list=tf.train.Int64List(value=row.ravel().tolist()))
    if dtype == tf.float32:
        return tf.train.Feature(float_list=tf.train.FloatList(value=row.ravel()))
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[row.astype(row.dtype.newbyteorder("<")).tobytes()]))
