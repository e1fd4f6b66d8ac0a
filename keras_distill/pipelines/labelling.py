"""TeacherLabeller: writes what a teacher says of examples beside them."""

import json
import os

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
from keras_distill.pipelines.reading import first_of, read_schema
from keras_distill.pipelines.saved import Signature
from keras_distill.saving import runs


class TeacherLabellerSpec(ComponentSpec):
    """What goes into a TeacherLabeller and comes out of it."""

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
    """Runs the teacher over each split, on any runner of Beam."""

    def Do(self, input_dict, output_dict, exec_properties):
        """See `TeacherLabeller`.

        Raises:
            ValueError: If examples, model and parameters do not fit together; nothing was written then.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        single = artifact_utils.get_single_instance
        examples, model, schema = (single(input_dict[key]) for key in TeacherLabellerSpec.INPUTS)
        labelled, labelled_schema = (single(output_dict[key]) for key in TeacherLabellerSpec.OUTPUTS)
        splits, taps, dtype, top_k = (json.loads(exec_properties[key]) for key in ("splits", "taps", "dtype", "top_k"))
        patterns = artifacts.patterns(examples, splits)
        signature = artifacts.signature(model, exec_properties["signature"])
        for pattern in patterns.values():
            _try_out(signature, pattern)
        stored_taps = packing.stored_taps(_chosen(signature, taps), dtype, top_k)
        ask = _Ask(
            signature.path, exec_properties["signature"], stored_taps, exec_properties["teacher"], shared.Shared()
        )
        extended = activations.extended(read_schema(io_utils.get_only_uri_in_dir(schema.uri)), ask.stored_taps)

        labelled.split_names = artifact_utils.encode_split_names(list(patterns))
        examples_utils.set_payload_format(labelled, example_gen_pb2.FORMAT_TF_EXAMPLE)
        size = exec_properties["batch_size"]
        with self._make_beam_pipeline() as pipeline:
            for split, pattern in patterns.items():
                to = os.path.join(artifact_utils.get_split_uri([labelled], split), "data_tfrecord")
                _ = (
                    pipeline
                    | f"Read[{split}]" >> beam.io.ReadFromTFRecord(pattern)
                    | f"Batch[{split}]" >> beam.BatchElements(min_batch_size=size, max_batch_size=size)
                    | f"Ask[{split}]" >> beam.ParDo(ask)
                    | f"Write[{split}]" >> beam.io.WriteToTFRecord(to, file_name_suffix=".gz")
                )
        io_utils.write_pbtxt_file(os.path.join(labelled_schema.uri, "schema.pbtxt"), extended)


class TeacherLabeller(base_beam_component.BaseBeamComponent):
    """Writes what a teacher says of examples beside them, once, for students that are trained without it.

    ```python
    labeller = TeacherLabeller(
        examples=example_gen.outputs["examples"],
        model=teacher.outputs["model"],
        schema=schema_gen.outputs["schema"],
    )
    student = Trainer(
        run_fn="keras_distill.pipelines.training.run_fn",
        examples=labeller.outputs["labelled_examples"],
        schema=labeller.outputs["labelled_schema"],
        custom_config=Settings("my_project.models:student", terms="my_project.models:terms", label="label").as_config(),
    )
    ```

    Several teachers are as many labellers in a row, each with a name of its own; a term then taps "wide/output".

    Component `outputs` contains:

    - `labelled_examples`: `Examples`, each one with the features "teacher/output" and the like.
    - `labelled_schema`: the `Schema` of these.

    Args:
        examples: Channel of `Examples`, raw as the model is served with; one artifact of tf.Example records.
        model: Channel of the teacher's `Model`.
        schema: Channel of the `Schema` of the examples.
        splits: Names of the splits that are labelled; others are left out. Defaults to all.
        taps: Which of the signature's outputs are kept. Defaults to all.
        dtype: "float32", "float16" or "bfloat16", or one for each tap in a dictionary.
        top_k: How many classes of the "output" are kept, with their sum for the others, or one number for each tap in a
            dictionary. Defaults to None, all.
        teacher: The teacher's name, where there are several.
        signature: The SavedModel's signature that takes serialized examples. Defaults to what `run_fn` exports.
        batch_size: Examples that the teacher sees at once.
    """

    SPEC_CLASS = TeacherLabellerSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)

    def __init__(
        self,
        examples,
        model,
        schema,
        splits=None,
        taps=None,
        dtype="float32",
        top_k=None,
        teacher="",
        signature=ACTIVATIONS,
        batch_size=128,
    ):
        spec = TeacherLabellerSpec(
            examples=examples,
            model=model,
            schema=schema,
            labelled_examples=types.Channel(type=standard_artifacts.Examples),
            labelled_schema=types.Channel(type=standard_artifacts.Schema),
            splits=artifacts.text(splits),
            taps=artifacts.text(taps),
            dtype=artifacts.text(dtype),
            top_k=artifacts.text(top_k),
            teacher=teacher,
            signature=signature,
            batch_size=batch_size,
            # TFX takes a node for done whatever the code behind it.
            versions=artifacts.text(runs.versions()),
        )
        super().__init__(spec=spec)


class _Ask(beam.DoFn):
    """Batches of serialized examples in, single ones with the teacher's activations out."""

    def __init__(self, path, signature, stored_taps, teacher, handle):
        self._path, self._name, self._handle = path, signature, handle
        # A term taps "wide/output" of the teacher "wide".
        self._names = {tap: f"{teacher}/{tap}" if teacher else tap for tap in stored_taps}
        self.stored_taps = {self._names[tap]: stored for tap, stored in stored_taps.items()}

    def setup(self):
        # One copy of the teacher in each process, whatever the number of its threads.
        self._signature = self._handle.acquire(lambda: Signature(self._path, self._name))

    def process(self, batch):
        said = self._signature(tf.constant(batch))
        rows = activations.encode({name: said[tap] for tap, name in self._names.items()}, self.stored_taps)
        for serialized, features in zip(batch, rows):
            example = tf.train.Example.FromString(serialized)
            for key, feature in features.items():
                example.features.feature[key].CopyFrom(feature)
            yield example.SerializeToString(deterministic=True)


def _try_out(signature, pattern):
    """Asks about one example here, before a thousand workers find out."""
    try:
        signature(tf.constant([first_of([pattern])]))
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(
            f"The SavedModel '{signature.path}' cannot read the examples at '{pattern}': {error.message}"
        ) from error


def _chosen(signature, taps):
    """`{tap: spec}` of what is kept."""
    there = signature.outputs
    missing = [tap for tap in taps or [] if tap not in there]
    if missing:
        raise ValueError(
            f"The SavedModel '{signature.path}' does not show the taps {missing}. There: {sorted(there)}. A Trainer "
            "exports those that its Settings(taps=...) name."
        )
    return {tap: there[tap] for tap in taps or there}
