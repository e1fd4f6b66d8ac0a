"""Run TFX nodes and read their outputs."""

import json
import os
import pathlib

import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2
from tensorflow_transform.tf_metadata import dataset_metadata, metadata_io, schema_utils
from tfx import v1 as tfx
from tfx.types import standard_artifacts
from tfx.utils import io_utils

from keras_distill.pipelines import activations

# The Schema of the examples that `write_examples` writes.
SCHEMA = """
    feature { name: "x" type: FLOAT presence { min_fraction: 1.0 } shape { dim { size: 8 } } }
    feature { name: "label" type: INT presence { min_fraction: 1.0 } shape { dim { size: 1 } } }
"""
BEAM = ["--runner=FnApiRunner", "--sdk_container_image=unused"]


def write_examples(folder, splits):
    """Write examples with the features "x" and "label", in a folder for each split.

    Args:
        folder: Output directory.
        splits: `{name: (x, labels)}`. With labels of None, the examples have no label.
    """
    for name, (x, labels) in splits.items():
        path = pathlib.Path(folder, f"Split-{name}", "data.gz")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
            for index, row in enumerate(x):
                example = tf.train.Example()
                example.features.feature["x"].float_list.value.extend(row)
                if labels is not None:
                    example.features.feature["label"].int64_list.value.append(labels[index])
                writer.write(example.SerializeToString())


def examples_of(uri, split):
    """Return the examples of a split, as `tf.train.Example`s."""
    files = sorted(str(path) for path in pathlib.Path(uri, f"Split-{split}").iterdir())
    return [tf.train.Example.FromString(record.numpy()) for record in tf.data.TFRecordDataset(files, "GZIP")]


def serialized(row):
    """Return a serialized example of `{name: number, text or a list of them}`; None is an absent feature."""

    def feature(value):
        values = value if isinstance(value, list) else [value]
        if all(isinstance(value, str) for value in values):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.encode() for value in values]))
        if all(isinstance(value, int) for value in values):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))

    features = {name: feature(value) for name, value in row.items() if value is not None}
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def write_schema(path, specs, stored_taps=None):
    """Write the Schema of `{name: parsing specification}`, with teacher activations of `{tap: StoredTap}`."""
    schema = activations.extend_schema(schema_utils.schema_from_feature_spec(specs), stored_taps or {})
    io_utils.write_pbtxt_file(str(path), schema)


def write_transform_graph(folder, specs, rows, preprocessing):
    """Write the transform graph of a preprocessing function.

    Args:
        folder: Output directory; a folder beside it holds temporary files.
        specs: `{name: parsing specification}` of the raw features.
        rows: List of `{name: value}` to analyze.
        preprocessing: The preprocessing function.
    """
    metadata = dataset_metadata.DatasetMetadata.from_feature_spec(specs)
    with tft_beam.Context(temp_dir=f"{folder}_temp"):
        function = (rows, metadata) | tft_beam.AnalyzeDataset(preprocessing)
        _ = function | tft_beam.WriteTransformFn(str(folder))
    metadata_io.write_metadata(metadata, os.path.join(folder, tft.TFTransformOutput.RAW_METADATA_DIR))


def import_artifacts(folder, splits, **names):
    """Return Importers of artifacts in the folder, and their channels.

    Args:
        folder: Directory of the artifacts.
        splits: Names of the splits of the examples.
        **names: Name of the artifact's folder for each input of a node; other inputs than these are models.
    """
    kinds = {
        "examples": standard_artifacts.Examples,
        "schema": standard_artifacts.Schema,
        "transform_graph": standard_artifacts.TransformGraph,
    }
    nodes = {
        key: tfx.dsl.Importer(
            source_uri=str(folder / name),
            artifact_type=kinds.get(key, standard_artifacts.Model),
            properties={"split_names": json.dumps(splits)} if key == "examples" else {},
        ).with_id(key)
        for key, name in names.items()
    }
    return list(nodes.values()), {key: node.outputs["result"] for key, node in nodes.items()}


class Pipeline:
    """Pipeline in a folder that can run several times, and its outputs.

    Args:
        folder: Directory of the pipeline.
    """

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.connection = tfx.orchestration.metadata.sqlite_metadata_connection_config(str(self.folder / "mlmd.sqlite"))

    def run(self, nodes):
        """Run the nodes on the local runner.

        Returns:
            `{node id: state}`, such as "complete" or "cached".
        """
        tfx.orchestration.LocalDagRunner().run(
            tfx.dsl.Pipeline(
                pipeline_name="test",
                pipeline_root=str(self.folder / "root"),
                components=nodes,
                enable_cache=True,
                metadata_connection_config=self.connection,
                beam_pipeline_args=BEAM,
            )
        )
        return {node: state for node, (_, state) in self._executions().items()}

    def uri(self, node, key):
        """Return the URI of a node's output artifact in the latest run."""
        return self.artifact(node, key).uri

    def artifact(self, node, key):
        """Return a node's output artifact in the latest run, from ML Metadata."""
        execution, _ = self._executions()[node]
        events = [
            event
            for event in self._store().get_events_by_execution_ids([execution])
            if event.type == metadata_store_pb2.Event.OUTPUT and event.path.steps[0].key == key
        ]
        # A cached node refers to the artifacts of an earlier run.
        (artifact,) = self._store().get_artifacts_by_id([event.artifact_id for event in events])
        return artifact

    def _executions(self):
        store = self._store()
        run = max(store.get_contexts_by_type("pipeline_run"), key=lambda context: context.id)
        executions = {}
        for execution in store.get_executions_by_context(run.id):
            (node,) = (c.name for c in store.get_contexts_by_execution(execution.id) if c.type == "node")
            state = metadata_store_pb2.Execution.State.Name(execution.last_known_state).lower()
            executions[node.removeprefix("test.")] = (execution.id, state)
        return executions

    def _store(self):
        return metadata_store.MetadataStore(self.connection)


def serving(model_uri):
    """Return the path of the SavedModel in a `Model` artifact."""
    return os.path.join(model_uri, "Format-Serving")
