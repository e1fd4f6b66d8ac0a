"""`run_fn` and `TrainerInputs`, called in the same way as by a TFX Trainer."""

import keras
import keras_tuner
import numpy as np
import pytest
import tensorflow as tf
from tfx.components.trainer.fn_args_utils import FnArgs

from keras_distill.callbacks.termination import NonFiniteError
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
    """Return a folder with examples without teacher activations, their Schema, and a teacher that runs online."""
    folder = tmp_path_factory.mktemp("training")
    write_examples(folder, {"train": data(90), "eval": data(30)})
    (folder / "schema.pbtxt").write_text(SCHEMA)
    reader = Reader(str(folder / "schema.pbtxt"), Settings("tests.support.tfx_project:teacher", label="label"))
    export(mlp(width=16, name="teacher"), reader, str(folder / "teacher"))
    return folder


def arguments(
    folder, run="run", train_steps=None, hyperparameters=None, model="tests.support.tfx_project:student", **values
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
        custom_config=Settings(model, **values).as_config(),
    )


def trained(folder, run, **values):
    run_fn(arguments(folder, run, **values))
    return keras.saving.load_model(folder / run / "student.keras").get_weights()


def test_training_resumes_exactly_after_a_failure(folder):
    options = {"compile": "tests.support.tfx_project:compile_with_failure", "epochs": 2, "backup_every": 2}
    uninterrupted = trained(folder, "uninterrupted", backup_dir=str(folder / "first"), **options)
    tfx_project.steps_before_failure[0] = 6
    with pytest.raises(tf.errors.OpError, match="training failed"):
        trained(folder, "interrupted", backup_dir=str(folder / "second"), **options)
    assert list((folder / "second").iterdir())
    # Use another output folder, because TFX gives each execution new folders.
    resumed = trained(folder, "resumed", backup_dir=str(folder / "second"), **options)
    for expected, actual in zip(uninterrupted, resumed, strict=True):
        np.testing.assert_array_equal(expected, actual)
    assert not any(list(path.iterdir()) for path in (folder / "first", folder / "second") if path.exists())


@pytest.mark.case("E2")
def test_training_with_a_loss_that_is_not_finite_ends_without_a_model(folder):
    with pytest.raises(NonFiniteError, match=r"The loss is (nan|inf) in step \d of epoch 1\..*Lower the learning rate"):
        trained(folder, "overflow", compile="tests.support.tfx_project:compile_with_overflow")
    assert not (folder / "overflow" / "student.keras").exists() and not (folder / "overflow" / "serving").exists()


def test_two_replicas_match_one(folder):
    single = trained(folder, "one", epochs=2)
    assert_same_weights(
        single, trained(folder, "two", epochs=2, strategy="tests.support.tfx_project:two_devices"), atol=1e-6
    )


def test_steps_are_divided_among_epochs(folder):
    inputs = TrainerInputs(arguments(folder, train_steps=24, epochs=2))
    assert len(list(inputs.train_dataset(0))) == 12
    assert len(list(TrainerInputs(arguments(folder)).train_dataset(0))) == 9


def test_order_of_examples_depends_on_the_seed(folder):
    inputs = TrainerInputs(arguments(folder))
    first, same, other = (np.concatenate([labels for _, labels in inputs.train_dataset(seed)]) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()
    assert sorted(first) == sorted(other)


def test_student_with_several_inputs_and_no_labels(folder):
    trained(
        folder,
        "several",
        model="tests.support.tfx_project:two_inputs",
        preprocessing="tests.support.tfx_project:split_features",
        label=None,
    )
    student = keras.saving.load_model(folder / "several" / "student.keras")
    served = tf.saved_model.load(str(folder / "several" / "serving")).signatures
    x, _ = data(30)
    expected = student.predict({"low": x[:, :4], "high": x[:, 4:]}, verbose=0)
    examples = tf.constant([example.SerializeToString() for example in examples_of(folder, "eval")])
    np.testing.assert_allclose(served["serving_default"](examples=examples)["output"], expected, rtol=1e-5, atol=1e-6)
    assert set(served["tensors"].structured_input_signature[1]) == {"low", "high"}
    from_tensors = served["tensors"](low=tf.constant(x[:, :4]), high=tf.constant(x[:, 4:]))
    np.testing.assert_allclose(from_tensors["output"], expected, rtol=1e-5, atol=1e-6)


def test_hyperparameters_reach_student_and_terms(folder):
    hp = keras_tuner.HyperParameters()
    hp.Int("width", 3, 6, default=4)
    hp.Float("temperature", 1.0, 4.0, default=2.0)
    hp.values.update(width=6, temperature=3.5)
    inputs = TrainerInputs(
        arguments(folder, hyperparameters=hp.get_config(), terms="tests.support.tfx_project:kl_term")
    )
    distiller = inputs.build_distiller(inputs.hyperparameters)
    assert distiller.student.get_layer("features").units == 6
    assert distiller.terms[0].loss.temperature == 3.5


def test_node_without_settings_raises(folder):
    args = arguments(folder)
    args.custom_config = {"epochs": 3}
    with pytest.raises(ValueError, match="The node has no keras_distill settings.*'epochs': 3"):
        run_fn(args)
