"""Run TFX nodes and read their outputs."""

import os
import pathlib

import tensorflow as tf
from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2
from tfx import v1 as tfx

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
