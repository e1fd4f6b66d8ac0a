"""Labels that a Transform makes: their raw features are no inputs of the served model."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft

from keras_distill.cache.packing import StoredTap
from keras_distill.experiment import Results
from keras_distill.pipelines.exporting import export
from keras_distill.pipelines.reading import Reader
from keras_distill.pipelines.reporting import DistillationReport
from keras_distill.pipelines.settings import Settings
from tests.support.tfx_running import (
    Pipeline,
    import_artifacts,
    serialized,
    serving,
    write_schema,
    write_transform_graph,
)

pytestmark = pytest.mark.tfx

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
    write_transform_graph(folder / "graph", SPECS, ROWS, preprocessing)
    write_schema(folder / "schema" / "schema.pbtxt", SPECS)
    return folder


def reader(folder, **settings):
    return Reader(
        str(folder / "schema" / "schema.pbtxt"),
        Settings(model=__name__, label="label", **settings),
        str(folder / "graph"),
    )


def classifier():
    inputs = {name: keras.Input((), name=name) for name in ("age", "hours")}
    columns = [keras.layers.Reshape((1,))(tensor) for tensor in inputs.values()]
    return keras.Model(inputs, keras.layers.Dense(2, name="logits")(keras.layers.Concatenate()(columns)))


def transformed():
    age, hours = (np.array([row[name] for row in ROWS], "float32") for name in ("age", "hours"))
    return {"age": (age - age.mean()) / age.std(), "hours": hours / 10}


@pytest.mark.case("C12")
def test_examples_without_the_source_of_the_label_are_served(folder, tmp_path):
    model = classifier()
    export(model, reader(folder), tmp_path / "served")
    unlabeled = [serialized({name: row[name] for name in ("age", "hours")}) for row in ROWS]
    served = tf.saved_model.load(str(tmp_path / "served")).signatures["serving_default"](
        examples=tf.constant(unlabeled)
    )
    np.testing.assert_allclose(served["output"], model(transformed()), rtol=1e-5, atol=1e-6)


@pytest.mark.case("C12")
@pytest.mark.parametrize("features", [None, ["age"]])
def test_the_label_is_made_of_them_in_training(folder, features):
    inputs, labels = reader(folder, features=features).element(tf.constant([serialized(row) for row in ROWS]))
    assert (set(inputs) if features is None else {"age"}) == {"age", *([] if features else ["hours"])}
    # The vocabulary orders texts by frequency: "low" is 0.
    np.testing.assert_array_equal(labels, [row["age"] > 5 for row in ROWS])


@pytest.mark.case("C10")
@pytest.mark.parametrize("classes", [None, ["poor", "rich"]])
def test_report_reads_the_label_that_the_transform_makes(folder, tmp_path, classes):
    models = {"teacher": classifier(), "distilled": classifier()}
    # Labels change after the age of 5; predictions of the teacher after 4, those of the student after 7.
    for (name, model), threshold in zip(models.items(), (4, 7)):
        model.get_layer("logits").set_weights(
            [np.array([[0, 1], [0, 0]]), np.array([0, -transformed()["age"][threshold]])]
        )
        export(model, reader(folder), serving(tmp_path / name))
    (tmp_path / "examples" / "Split-eval").mkdir(parents=True)
    # The last example has a text that the Transform does not know: its label is missing.
    rows = [*ROWS[:-1], {**ROWS[-1], "income": "unknown"}]
    logits = models["teacher"](transformed()).numpy().tolist()
    with tf.io.TFRecordWriter(str(tmp_path / "examples" / "Split-eval" / "data.gz"), "GZIP") as writer:
        for row, values in zip(rows, logits):
            writer.write(serialized({**row, "teacher/output": values}))
    write_schema(tmp_path / "schema" / "schema.pbtxt", SPECS, {"output": StoredTap((2,), "float32")})
    names = {"examples": "examples", "schema": "schema", "transform_graph": folder / "graph"}
    nodes, channels = import_artifacts(tmp_path, ["eval"], **names, model="distilled", base_model="teacher")
    pipeline = Pipeline(tmp_path)
    pipeline.run([*nodes, DistillationReport(**channels, label="label", classes=classes)])
    results = Results.load(pipeline.uri("DistillationReport", "report") + "/results.json")
    assert results.classes == (classes or ["lowt", "hight"])
    for model in results.models:
        predictions = models[model.name](transformed()).numpy().argmax(-1)
        confusion = np.zeros((2, 2), int)
        for row, prediction in zip(ROWS[:-1], predictions[:-1]):
            confusion[int(row["age"] > 5), prediction] += 1
        np.testing.assert_array_equal(model.runs[0].confusion, confusion)
        assert model.runs[0].score == pytest.approx(np.trace(confusion) / 9)
