"""Helpers shared by the TFX components: artifact files, and component parameters as JSON."""

import json
from collections.abc import Sequence
from typing import Any, TypeAlias

from tfx import types
from tfx.components.util import examples_utils
from tfx.dsl.placeholder import placeholder
from tfx.orchestration import data_types
from tfx.proto import example_gen_pb2
from tfx.types import artifact_utils
from tfx.utils import io_utils, path_utils

from keras_distill.pipelines.reading import first_example
from keras_distill.pipelines.saved import Signature

# A component parameter whose value is only known when the pipeline runs.
RuntimeValue: TypeAlias = data_types.RuntimeParameter | placeholder.Placeholder


def split_patterns(examples: types.Artifact, splits: Sequence[str] | None = None) -> dict[str, str]:
    """Return a file pattern for each split of an `Examples` artifact.

    Args:
        examples: An `Examples` artifact of tf.Example records.
        splits: Names of the splits. Defaults to None: all splits.

    Returns:
        `{split: pattern}`.

    Raises:
        ValueError: If a split does not exist or is empty, or the payload format is not FORMAT_TF_EXAMPLE.
    """
    if examples_utils.get_payload_format(examples) != example_gen_pb2.FORMAT_TF_EXAMPLE:
        payload_format = examples_utils.get_payload_format_string(examples)
        raise ValueError(
            f"The examples at '{examples.uri}' must have the payload format FORMAT_TF_EXAMPLE. Received: "
            f"{payload_format}"
        )
    available = artifact_utils.decode_split_names(examples.split_names)
    missing = [split for split in splits or [] if split not in available]
    if missing:
        raise ValueError(f"The examples at '{examples.uri}' have no splits {missing}. Available: {available}.")
    patterns = {
        split: io_utils.all_files_pattern(artifact_utils.get_split_uri([examples], split))
        for split in splits or available
    }
    for pattern in patterns.values():
        first_example([pattern])
    return patterns


def load_signature(model: types.Artifact, name: str) -> Signature:
    """Return the `Signature` called `name` of the SavedModel in a `Model` artifact.

    Args:
        model: A `Model` artifact.
        name: Name of the signature.

    Raises:
        ValueError: If there is no such signature, or it does not take serialized examples.
    """
    return Signature(path_utils.serving_model_path(model.uri, path_utils.is_old_model_artifact(model)), name)


def to_json(value: Any) -> str | RuntimeValue:
    """Return a component parameter as JSON.

    A `RuntimeParameter` or `Placeholder` is returned unchanged; its value must be JSON when the pipeline runs.

    Args:
        value: Anything that JSON can represent, or a `RuntimeValue`.
    """
    return value if isinstance(value, RuntimeValue) else json.dumps(value, sort_keys=True)
