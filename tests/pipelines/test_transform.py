"""Labels that a Transform makes: their raw features are no inputs of the served model."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from tensorflow_metadata.proto.v0 import schema_pb2
from tensorflow_transform.tf_metadata import dataset_metadata, metadata_io, schema_utils
from tfx.utils import io_utils

from keras_distill.pipelines.exporting import export
from keras_distill.pipelines.reading import Reader
from keras_distill.pipelines.settings import Settings

SPECS = {
    "age": tf.io.FixedLenFeature([], tf.float32),
    "hours": tf.io.FixedLenFeature([], tf.float32),
    "income": tf.io.FixedLenFeature([], tf.string),
    "threshold": tf.io.FixedLenFeature([], tf.string),
}
ROWS = [
    {"age": float(age), "hours": 2.0 * age, "income": "high" if age > 5 else "low", "threshold": "t"}
    for age in range(10)
]


def preprocessing(inputs):
    label = tft.compute_and_apply_vocabulary(tf.strings.join([inputs["income"], inputs["threshold"]]))
    return {"age": tft.scale_to_z_score(inputs["age"]), "hours": inputs["hours"] / 10, "label": label}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Schema and transform graph of examples with a text label."""
    folder = tmp_path_factory.mktemp("transform")
    metadata = dataset_metadata.DatasetMetadata.from_feature_spec(SPECS)
    with tft_beam.Context(temp_dir=str(folder / "temp")):
        function = (ROWS, metadata) | tft_beam.AnalyzeDataset(preprocessing)
        _ = function | tft_beam.WriteTransformFn(str(folder / "graph"))
    metadata_io.write_metadata(metadata, str(folder / "graph" / tft.TFTransformOutput.RAW_METADATA_DIR))
    schema = schema_pb2.Schema()
    schema.CopyFrom(schema_utils.schema_from_feature_spec(SPECS))
    io_utils.write_pbtxt_file(str(folder / "schema.pbtxt"), schema)
    return folder


def serialized(row):
    def feature(value):
        if isinstance(value, str):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.encode()]))
        return tf.train.Feature(float_list=tf.train.FloatList(value=[value]))

    features = {name: feature(value) for name, value in row.items()}
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def reader(folder, **settings):
    return Reader(
        str(folder / "schema.pbtxt"), Settings(model=__name__, label="label", **settings), str(folder / "graph")
    )


@pytest.mark.case("C12")
def test_examples_without_the_source_of_the_label_are_served(folder, tmp_path):
    inputs = {name: keras.Input((), name=name) for name in ("age", "hours")}
    columns = [keras.layers.Reshape((1,))(tensor) for tensor in inputs.values()]
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Concatenate()(columns)))
    export(model, reader(folder), tmp_path / "served")
    unlabeled = [serialized({name: row[name] for name in ("age", "hours")}) for row in ROWS]
    served = tf.saved_model.load(str(tmp_path / "served")).signatures["serving_default"](
        examples=tf.constant(unlabeled)
    )
    age, hours = (np.array([row[name] for row in ROWS], "float32") for name in ("age", "hours"))
    expected = model({"age": (age - age.mean()) / age.std(), "hours": hours / 10})
    np.testing.assert_allclose(served["output"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.case("C12")
@pytest.mark.parametrize("features", [None, ["age"]])
def test_the_label_is_made_of_them_in_training(folder, features):
    inputs, labels = reader(folder, features=features).element(tf.constant([serialized(row) for row in ROWS]))
    assert (set(inputs) if features is None else {"age"}) == {"age", *([] if features else ["hours"])}
    # The vocabulary orders texts by frequency: "low" is 0.
    np.testing.assert_array_equal(labels, [row["age"] > 5 for row in ROWS])
