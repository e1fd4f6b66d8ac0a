"""Dtype policy of a whole model."""

from typing import Any

import keras


def with_dtype_policy(model: keras.Model, policy: str) -> keras.Model:
    """Return a copy of a model whose layers have another dtype policy, such as mixed precision.

    Args:
        model: A `keras.Model` that can be saved. It is not modified.
        policy: Name of the policy: "mixed_bfloat16", "mixed_float16" or "float32".

    Returns:
        A new model with the same weights. Layers with a quantized policy keep it.

    Raises:
        ValueError: If the model cannot be rebuilt from its configuration.

    Example:

    >>> with_dtype_policy(student, "mixed_bfloat16").compute_dtype
    'bfloat16'
    """
    config = _replaced(keras.saving.serialize_keras_object(model), policy)
    copy = keras.saving.deserialize_keras_object(config)
    copy.set_weights(model.get_weights())
    return copy


def _replaced(config: Any, policy: str) -> Any:
    if isinstance(config, list | tuple):
        return type(config)(_replaced(item, policy) for item in config)
    if not isinstance(config, dict):
        return config
    if config.get("class_name") == "DTypePolicy":
        return {**config, "config": {"name": policy}}
    return {key: _replaced(value, policy) for key, value in config.items()}
