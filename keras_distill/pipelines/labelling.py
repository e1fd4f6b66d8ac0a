"""TFX component TeacherLabeller: add the outputs of a teacher to the examples."""

import json
import os
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
import tensorflow as tf
from apache_beam.utils import shared
from tfx import types
from tfx.components.util import examples_utils
from tfx.dsl.components.base import base_beam_component, base_beam_executor, executor_spec
from tfx.proto import example_gen_pb2
from tfx.types import artifact_utils, standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter
from tfx.utils import io_utils

from keras_distill.cache import packing
from keras_distill.pipelines import activations, artifacts
from keras_distill.pipelines.exporting import ACTIVATIONS
from keras_distill.pipelines.reading import first_example, read_schema
from keras_distill.pipelines.saved import Signature
from keras_distill.saving import runs


class TeacherLabellerSpec(ComponentSpec):
    """Inputs, outputs and parameters of a TeacherLabeller."""

    INPUTS = {
        "examples": ChannelParameter(type=standard_artifacts.Examples),
        "model": ChannelParameter(type=standard_artifacts.Model),
        "schema": ChannelParameter(type=standard_artifacts.Schema),
    }
    OUTPUTS = {
        "labelled_examples": ChannelParameter(type=standard_artifacts.Examples),
        "labelled_schema": ChannelParameter(type=standard_artifacts.Schema),
    }
    PARAMETERS = {
        "teacher": ExecutionParameter(type=str),
        "splits": ExecutionParameter(type=str),
        "taps": ExecutionParameter(type=str),
        "dtype": ExecutionParameter(type=str),
        "top_k": ExecutionParameter(type=str),
        "signature": ExecutionParameter(type=str),
        "batch_size": ExecutionParameter(type=int),
        "versions": ExecutionParameter(type=str),
    }


class Executor(base_beam_executor.BaseBeamExecutor):
    """Run the teacher over each split, on any Beam runner."""

    def Do(  # noqa: N802 (TFX calls this method)
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Write the examples with teacher activations, and their Schema. See `TeacherLabeller`.

        Args:
            input_dict: `{input: [artifact]}`.
            output_dict: `{output: [artifact]}`.
            exec_properties: `{parameter: value}`.

        Raises:
            ValueError: If the examples, the model and the parameters do not match. Nothing is written then.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        single = artifact_utils.get_single_instance
        examples, model, schema = (single(input_dict[key]) for key in TeacherLabellerSpec.INPUTS)
        labelled, labelled_schema = (single(output_dict[key]) for key in TeacherLabellerSpec.OUTPUTS)
        splits, taps, dtype, top_k = (json.loads(exec_properties[key]) for key in ("splits", "taps", "dtype", "top_k"))
        patterns = artifacts.split_patterns(examples, splits)
        signature = artifacts.load_signature(model, exec_properties["signature"])
        for pattern in patterns.values():
            _check_readable(signature, pattern)
        stored_taps = packing.stored_taps(_select_outputs(signature, taps), dtype, top_k)
        add_outputs = _AddTeacherOutputs(
            signature.path, exec_properties["signature"], stored_taps, exec_properties["teacher"], shared.Shared()
        )
        labelled_features = activations.extend_schema(
            read_schema(io_utils.get_only_uri_in_dir(schema.uri)), add_outputs.stored_taps
        )

        labelled.split_names = artifact_utils.encode_split_names(list(patterns))
        examples_utils.set_payload_format(labelled, example_gen_pb2.FORMAT_TF_EXAMPLE)
        size = exec_properties["batch_size"]
        with self._make_beam_pipeline() as pipeline:
            for split, pattern in patterns.items():
                prefix = os.path.join(artifact_utils.get_split_uri([labelled], split), "data_tfrecord")
                _ = (
                    pipeline
                    | f"Read[{split}]" >> beam.io.ReadFromTFRecord(pattern)
                    | f"Batch[{split}]" >> beam.BatchElements(min_batch_size=size, max_batch_size=size)
                    | f"RunTeacher[{split}]" >> beam.ParDo(add_outputs)
                    | f"Write[{split}]" >> beam.io.WriteToTFRecord(prefix, file_name_suffix=".gz")
                )
        io_utils.write_pbtxt_file(os.path.join(labelled_schema.uri, "schema.pbtxt"), labelled_features)


class TeacherLabeller(base_beam_component.BaseBeamComponent):
    """Component that runs a teacher once over the examples and adds its outputs to them as features.

    Students train on the new examples without the teacher. Pass the outputs to a Trainer with
    `run_fn="keras_distill.pipelines.training.run_fn"`, as its `examples` and `schema`.

    For several teachers, chain several labellers, each with its own `teacher` name. A term then taps "wide/output" for
    the teacher "wide".

    Component `outputs` contains:

    - `labelled_examples`: `Examples` with the additional features "teacher/<tap>", such as "teacher/output".
    - `labelled_schema`: the `Schema` of these examples.

    Example:

    >>> from tfx.v1.dsl import Channel
    >>> from tfx.v1.types.standard_artifacts import Examples, Model, Schema
    >>> from keras_distill.pipelines.labelling import TeacherLabeller
    >>> labeller = TeacherLabeller(
    ...     examples=Channel(type=Examples),  # example_gen.outputs["examples"]
    ...     model=Channel(type=Model),  # teacher.outputs["model"]
    ...     schema=Channel(type=Schema),  # schema_gen.outputs["schema"]
    ...     dtype="float16",
    ... )
    >>> sorted(labeller.outputs)
    ['labelled_examples', 'labelled_schema']

    Args:
        examples: Channel of `Examples`: one artifact of tf.Example records, raw as the model takes them in serving.
        model: Channel of the teacher's `Model`.
        schema: Channel of the `Schema` of the examples.
        splits: Names of the splits to process; other splits are left out. Defaults to None: all splits.
        taps: Outputs of the signature to store. Defaults to None: all outputs.
        dtype: "float32", "float16" or "bfloat16", or a dictionary `{tap: dtype}`. Defaults to "float32".
        top_k: Number of most probable classes to store at the tap "output", or a dictionary `{tap: number}`. The
            probabilities of the other classes are stored as their sum. 10 to 100 is typical for thousands of classes.
            Defaults to None: all classes.
        teacher: Name of the teacher, needed for several teachers. Defaults to "": no name.
        signature: Name of the SavedModel's signature; it must take serialized examples. Defaults to "activations",
            which `run_fn` exports.
        batch_size: Number of examples in a batch of the teacher. Defaults to 128.
    """

    SPEC_CLASS = TeacherLabellerSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)

    def __init__(
        self,
        examples: types.BaseChannel,
        model: types.BaseChannel,
        schema: types.BaseChannel,
        splits: Sequence[str] | artifacts.RuntimeValue | None = None,
        taps: Sequence[str] | artifacts.RuntimeValue | None = None,
        dtype: str | dict[str, str] | artifacts.RuntimeValue = "float32",
        top_k: int | dict[str, int | None] | artifacts.RuntimeValue | None = None,
        teacher: str | artifacts.RuntimeValue = "",
        signature: str | artifacts.RuntimeValue = ACTIVATIONS,
        batch_size: int | artifacts.RuntimeValue = 128,
    ):
        spec = TeacherLabellerSpec(
            examples=examples,
            model=model,
            schema=schema,
            labelled_examples=types.Channel(type=standard_artifacts.Examples),
            labelled_schema=types.Channel(type=standard_artifacts.Schema),
            splits=artifacts.to_json(splits),
            taps=artifacts.to_json(taps),
            dtype=artifacts.to_json(dtype),
            top_k=artifacts.to_json(top_k),
            teacher=teacher,
            signature=signature,
            batch_size=batch_size,
            # TFX reuses cached outputs while the parameters are unchanged. Versions make an upgrade rerun the node.
            versions=artifacts.to_json(runs.versions()),
        )
        super().__init__(spec=spec)


class _AddTeacherOutputs(beam.DoFn):
    """Add the teacher outputs to batches of serialized examples. Returns single examples."""

    def __init__(self, path, signature, stored_taps, teacher, handle):
        self._path, self._name, self._handle = path, signature, handle
        # A term taps "wide/output" of the teacher "wide".
        self._names = {tap: f"{teacher}/{tap}" if teacher else tap for tap in stored_taps}
        self.stored_taps = {self._names[tap]: stored for tap, stored in stored_taps.items()}

    def setup(self):
        # One copy of the teacher in each process, whatever the number of its threads.
        self._signature = self._handle.acquire(lambda: Signature(self._path, self._name))

    def process(self, batch):
        outputs = self._signature(tf.constant(batch))
        rows = activations.encode({name: outputs[tap] for tap, name in self._names.items()}, self.stored_taps)
        for serialized, features in zip(batch, rows):
            example = tf.train.Example.FromString(serialized)
            for key, feature in features.items():
                example.features.feature[key].CopyFrom(feature)
            yield example.SerializeToString(deterministic=True)


def _check_readable(signature, pattern):
    """Run the teacher on one example, so that a mismatch fails before the workers start."""
    try:
        signature(tf.constant([first_example([pattern])]))
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(
            f"The SavedModel '{signature.path}' cannot parse the examples at '{pattern}': {error.message}"
        ) from error


def _select_outputs(signature, taps):
    """Return `{tap: spec}` of the taps to store."""
    available = signature.outputs
    missing = [tap for tap in taps or [] if tap not in available]
    if missing:
        raise ValueError(
            f"The SavedModel '{signature.path}' does not output the taps {missing}. Available: {sorted(available)}. "
            "Export the teacher with these taps: Settings(taps=...) of its Trainer."
        )
    return {tap: available[tap] for tap in taps or available}
