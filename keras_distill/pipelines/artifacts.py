"""What components of TFX share: where artifacts have their files, and parameters as text."""

import json

from tfx.components.util import examples_utils
from tfx.dsl.placeholder import placeholder
from tfx.orchestration import data_types
from tfx.proto import example_gen_pb2
from tfx.types import artifact_utils
from tfx.utils import io_utils, path_utils

from keras_distill.pipelines.reading import first_of
from keras_distill.pipelines.saved import Signature


def patterns(examples, splits=None):
    """What the files of an `Examples` artifact match, `{split: pattern}`.

    Args:
        examples: The artifact.
        splits: Names of those that are wanted. Defaults to all.

    Raises:
        ValueError: If a split is not there or empty, or the examples are no tf.Examples.
    """
    if examples_utils.get_payload_format(examples) != example_gen_pb2.FORMAT_TF_EXAMPLE:
        kind = examples_utils.get_payload_format_string(examples)
        raise ValueError(f"The examples at '{examples.uri}' are {kind}. Make them tf.Examples, FORMAT_TF_EXAMPLE.")
    there = artifact_utils.decode_split_names(examples.split_names)
    missing = [split for split in splits or [] if split not in there]
    if missing:
        raise ValueError(f"The examples at '{examples.uri}' have no splits {missing}. There: {there}.")
    found = {
        split: io_utils.all_files_pattern(artifact_utils.get_split_uri([examples], split)) for split in splits or there
    }
    for pattern in found.values():
        first_of([pattern])
    return found


def signature(model, name):
    """The `Signature` of that name of a `Model` artifact."""
    return Signature(path_utils.serving_model_path(model.uri, path_utils.is_old_model_artifact(model)), name)


def text(value):
    """A parameter as JSON. What is known only when the pipeline runs passes through, and must be JSON by then."""
    later = isinstance(value, (data_types.RuntimeParameter, placeholder.Placeholder))
    return value if later else json.dumps(value, sort_keys=True)
