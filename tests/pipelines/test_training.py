"""`run_fn` as a Trainer calls it."""

import keras
import keras_tuner
import numpy as np
import pytest
import tensorflow as tf
from tfx.components.trainer.fn_args_utils import FnArgs

from keras_distill.pipelines.exporting import export
from keras_distill.pipelines.reading import Reader
from keras_distill.pipelines.settings import Settings
from keras_distill.pipelines.training import TrainerInputs, run_fn
from tests.support import tfx_project
from tests.support.helpers import assert_same_weights, data, mlp
from tests.support.tfx_running import SCHEMA, examples_of, write_examples

pytestmark = pytest.mark.tfx


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Examples that are not labelled, their Schema, and a teacher to ask about them."""
    folder = tmp_path_factory.mktemp("training")
    write_examples(folder, {"train": data(90), "eval": data(30)})
    (folder / "schema.pbtxt").write_text(SCHEMA)
    reader = Reader(str(folder / "schema.pbtxt"), Settings("tests.support.tfx_project:teacher", label="label"))
    export(mlp(width=16, name="teacher"), reader, str(folder / "teacher"))
    return folder


def arguments(
    folder, run="run", train_steps=None, hyperparameters=None, student="tests.support.tfx_project:student", **values
):
    values = {"terms": "tests.support.tfx_project:output_term", "label": "label", "batch_size": 10} | values
    return FnArgs(
        train_files=[str(folder / "Split-train" / "*")],
        eval_files=[str(folder / "Split-eval" / "*")],
        schema_path=str(folder / "schema.pbtxt"),
        base_model=str(folder / "teacher"),
        serving_model_dir=str(folder / run / "serving"),
        model_run_dir=str(folder / run),
        train_steps=train_steps,
        hyperparameters=hyperparameters,
        custom_config=Settings(student, **values).as_config(),
    )


def trained(folder, run, **values):
    run_fn(arguments(folder, run, **values))
    return keras.saving.load_model(folder / run / "student.keras").get_weights()


def test_a_training_that_broke_off_goes_on_where_it_stood(folder):
    options = {"compile": "tests.support.tfx_project:stumbling", "epochs": 2, "backup_every": 2}
    unbroken = trained(folder, "unbroken", backup=str(folder / "first"), **options)
    tfx_project.steps_before_the_stumble[0] = 6
    with pytest.raises(tf.errors.OpError, match="stumbled"):
        trained(folder, "broken", backup=str(folder / "second"), **options)
    assert list((folder / "second").iterdir())
    # Elsewhere, as TFX gives each execution folders of its own.
    resumed = trained(folder, "resumed", backup=str(folder / "second"), **options)
    for one, other in zip(unbroken, resumed, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not any(list(path.iterdir()) for path in (folder / "first", folder / "second") if path.exists())


def test_two_devices_make_the_steps_of_one(folder):
    one = trained(folder, "one", epochs=2)
    assert_same_weights(
        one, trained(folder, "two", epochs=2, strategy="tests.support.tfx_project:two_devices"), atol=1e-6
    )


def test_steps_are_divided_among_epochs(folder):
    lesson = TrainerInputs(arguments(folder, train_steps=24, epochs=2))
    assert len(list(lesson.train(0))) == 12
    assert len(list(TrainerInputs(arguments(folder)).train(0))) == 9


def test_the_order_is_a_function_of_the_seed(folder):
    lesson = TrainerInputs(arguments(folder))
    first, same, other = (np.concatenate([labels for _, labels in lesson.train(seed)]) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()
    assert sorted(first) == sorted(other)


def test_a_student_of_several_inputs_without_labels(folder):
    trained(
        folder,
        "several",
        student="tests.support.tfx_project:of_two_inputs",
        preprocessing="tests.support.tfx_project:in_two",
        label=None,
    )
    student = keras.saving.load_model(folder / "several" / "student.keras")
    served = tf.saved_model.load(str(folder / "several" / "serving")).signatures
    x, _ = data(30)
    expected = student.predict({"low": x[:, :4], "high": x[:, 4:]}, verbose=0)
    examples = tf.constant([example.SerializeToString() for example in examples_of(folder, "eval")])
    np.testing.assert_allclose(served["serving_default"](examples=examples)["output"], expected, rtol=1e-5, atol=1e-6)
    assert set(served["tensors"].structured_input_signature[1]) == {"low", "high"}
    of_tensors = served["tensors"](low=tf.constant(x[:, :4]), high=tf.constant(x[:, 4:]))
    np.testing.assert_allclose(of_tensors["output"], expected, rtol=1e-5, atol=1e-6)


def test_hyperparameters_reach_student_and_terms(folder):
    hp = keras_tuner.HyperParameters()
    hp.Int("width", 3, 6, default=4)
    hp.Float("temperature", 1.0, 4.0, default=2.0)
    hp.values.update(width=6, temperature=3.5)
    lesson = TrainerInputs(
        arguments(folder, hyperparameters=hp.get_config(), terms="tests.support.tfx_project:softened")
    )
    distiller = lesson.distiller(lesson.hyperparameters)
    assert distiller.student.get_layer("features").units == 6
    assert distiller.terms[0].loss.temperature == 3.5


def test_a_node_without_settings_is_told_so(folder):
    args = arguments(folder)
    args.custom_config = {"epochs": 3}
    with pytest.raises(ValueError, match="The node has no settings of keras_distill.*'epochs': 3"):
        run_fn(args)
