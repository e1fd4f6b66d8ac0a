"""The advice of an error works when it is followed: each case raises, and then trains as the error says."""

import keras
import numpy as np
import pytest

from keras_distill import Balance, Distiller, Term, load_distiller, without_softmax
from keras_distill.losses import BinaryKD, Hint, KLDivergence
from keras_distill.teachers import Ensemble, ModelTeacher
from tests.support.helpers import assert_same_weights, crossentropy, data, fitted, mlp, weights_of


def step(loss=None, **arguments):
    """Train one epoch and return the distiller."""
    distiller = Distiller(**({"student": mlp(), "teacher": mlp(16, name="teacher")} | arguments))
    distiller.compile(keras.optimizers.SGD(0.01), loss)
    x, y = data()
    logged = fitted(distiller, x, None if loss is None else y)
    assert np.isfinite(logged["loss"]).all()
    return distiller


def siamese(name):
    inputs, shared = keras.Input((8,)), keras.layers.Dense(8, name="shared")
    return keras.Model(inputs, keras.layers.Dense(3)(shared(shared(inputs))), name=name)


def heads(name):
    inputs = keras.Input((8,))
    return keras.Model(
        inputs, {"topic": keras.layers.Dense(3)(inputs), "tone": keras.layers.Dense(2)(inputs)}, name=name
    )


def sigmoid(name):
    return keras.Sequential([keras.Input((8,)), keras.layers.Dense(3, activation="sigmoid")], name=name)


def scalar(student, teacher):
    return keras.ops.mean(keras.ops.square(student - teacher))


def per_example(student, teacher):
    return keras.ops.mean(keras.ops.square(student - teacher), axis=-1)


def unbuilt(name):
    return keras.Sequential([keras.layers.Dense(3)], name=name)


SHARED = keras.layers.Dense(8, name="features")


def tied(name):
    return keras.Sequential([keras.Input((8,)), SHARED, keras.layers.Dense(3)], name=name)


CASES = {
    "no terms": (
        lambda: step(terms=[]),
        r"terms=\[Term\(KLDivergence\(\)\)\]",
        lambda: step(terms=[Term(KLDivergence())]),
    ),
    "terms without a teacher": (
        lambda: step(teacher=None, terms=[KLDivergence()]),
        "or `terms=\\[\\]` to train the baseline",
        lambda: step(crossentropy(), teacher=None, terms=[]),
    ),
    "other widths": (
        lambda: step(terms=[Term(Hint(), "features", "features")]),
        "Add a head, such as head='auto'",
        lambda: step(terms=[Term(Hint(), "features", "features", head="auto")]),
    ),
    "other classes": (
        lambda: step(teacher=mlp(classes=5, name="teacher")),
        r"see ModelTeacher\(teacher, classes=...\)",
        lambda: step(teacher=ModelTeacher(mlp(classes=5, name="teacher"), classes=[0, 2, [1, 3]])),
    ),
    "a layer that is called twice": (
        lambda: step(student=siamese("student"), teacher=siamese("teacher"), terms=[Term(Hint(), "shared", "shared")]),
        "such as 'shared@0'",
        lambda: step(
            student=siamese("student"), teacher=siamese("teacher"), terms=[Term(Hint(), "shared@0", "shared@1")]
        ),
    ),
    "several outputs": (
        lambda: step(student=heads("student"), teacher=heads("teacher")),
        r"Choose one: 'output\[(topic|tone)\]'",
        lambda: step(
            student=heads("student"),
            teacher=heads("teacher"),
            terms=[Term(KLDivergence(), "output[topic]", "output[topic]")],
        ),
    ),
    "unknown input shapes": (
        lambda: step(student=unbuilt("student"), teacher=unbuilt("teacher")),
        r"Pass `inputs=`: an example batch, or keras.Input\(shape\)",
        lambda: step(student=unbuilt("student"), teacher=unbuilt("teacher"), inputs=keras.Input((8,))),
    ),
    "shared weights": (
        lambda: step(student=tied("student"), teacher=tied("teacher")),
        "from its own layers and copy the values with `set_weights`",
        lambda: step(student=mlp(), teacher=mlp(name="teacher")),
    ),
    "a Keras loss of probabilities": (
        lambda: step(terms=["kl_divergence"]),
        r"Use keras_distill.losses.KLDivergence\(\)",
        lambda: step(terms=[KLDivergence()]),
    ),
    "a function that returns a scalar": (
        lambda: step(terms=[scalar]),
        "Leave out the mean over the first axis",
        lambda: step(terms=[per_example]),
    ),
    "a softmax loss on sigmoids": (
        lambda: step(student=sigmoid("student"), teacher=sigmoid("teacher"), terms=[KLDivergence()]),
        "Use BinaryKD, which compares independent binary logits",
        lambda: step(student=sigmoid("student"), teacher=sigmoid("teacher"), terms=[BinaryKD()]),
    ),
    "an ensemble of sigmoids": (
        lambda: step(teacher=Ensemble([sigmoid("a"), sigmoid("b")])),
        r"keras_distill.without_softmax\(model\)",
        lambda: step(teacher=Ensemble([without_softmax(sigmoid("a")), without_softmax(sigmoid("b"))])),
    ),
    "a balance without a supervised loss": (
        lambda: step(terms=[Term(KLDivergence(), weight=Balance())]),
        "Pass `loss=`, or use numbers as weights",
        lambda: step(crossentropy(), terms=[Term(KLDivergence(), weight=Balance())]),
    ),
    "a function as teacher of features": (
        lambda: step(teacher=lambda x: mlp()(x), terms=[Term(Hint(), "features", "features")]),
        "Pass the keras.Model itself",
        lambda: step(terms=[Term(Hint(), "features", "features", head="auto")]),
    ),
    "several taps for a loss of one": (
        lambda: step(terms=[Term(Hint(), ("features", "logits"), "features")]),
        "Hint compares one activation",
        lambda: step(terms=[Term(Hint(), "features", "features", "auto"), Term(Hint(), "logits", "logits")]),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_advice_works(case):
    wrong, advice, right = CASES[case]
    with pytest.raises(ValueError, match=advice):
        wrong()
    right()


def test_load_model_names_the_function_that_loads(tmp_path):
    teacher = mlp(16, name="teacher")
    distiller = step(teacher=teacher)
    distiller.save(tmp_path / "d.keras")
    with pytest.raises(ValueError, match=r"keras_distill.load_distiller\(path, teacher=...\)"):
        keras.saving.load_model(tmp_path / "d.keras")
    loaded = load_distiller(tmp_path / "d.keras", teacher=teacher)
    assert_same_weights(weights_of(distiller), weights_of(loaded), rtol=0, atol=0)
    assert_same_weights(weights_of(distiller.student), weights_of(loaded.student), rtol=0, atol=0)


@pytest.mark.parametrize("labels", [np.arange(24) % 3 + 1, np.full(24, -2), np.full((24, 1), 3, "uint8")])
def test_class_indices_that_are_no_classes(labels):
    distiller = Distiller(student=mlp(), teacher=mlp(16, name="teacher"))
    distiller.compile("sgd", crossentropy())
    x = data(24)[0]
    before = weights_of(distiller.student)
    with pytest.raises(
        ValueError, match="is not a class of 'student', which has the classes 0 to 2. Number the classes"
    ):
        distiller.fit(x, labels, verbose=0)
    assert_same_weights(weights_of(distiller.student), before)
    # -1 is a missing label, and so is the class that the loss ignores.
    distiller.fit(x, np.arange(24) % 4 - 1, verbose=0)
    distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=255))
    distiller.fit(x, np.where(np.arange(24) % 4 == 3, 255, np.arange(24) % 4), verbose=0)


def test_one_hot_labels_for_a_loss_of_class_indices():
    distiller = Distiller(student=mlp(), teacher=mlp(16, name="teacher"))
    distiller.compile("sgd", crossentropy())
    with pytest.raises(ValueError, match="They look one-hot: use CategoricalCrossentropy, or pass `y.argmax"):
        distiller.fit(data(24)[0], np.eye(3, dtype="float32")[data(24)[1]], verbose=0)
