"""Training on several replicas makes the same updates as on one device."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import Balance, Distiller, MultiCrop, MutualDistiller, Term
from keras_distill.cache import indexed, label, open_cache
from keras_distill.losses import CenteredKL, Hint, KLDivergence, SimilarityPreserving
from keras_distill.teachers import EMATeacher, Ensemble
from tests.support.loss_models import CLASSES
from tests.support.replica_comparison import BATCH, EXAMPLES, assert_same_on_replicas, from_logits, strategy, trained
from tests.support.replica_models import both, dense, numbers, tokens

pytestmark = [pytest.mark.replicas, pytest.mark.processes]


@pytest.mark.parametrize("loss", ["sparse_categorical_crossentropy", from_logits], ids=["string", "instance"])
def test_supervised_losses(loss):
    def make():
        student = dense("student")
        softmax = keras.Model(student.inputs, keras.layers.Softmax()(student.output))
        terms = [Term(Hint(), "features", "features")]
        return Distiller(student=softmax if loss != from_logits else student, teacher=dense("teacher"), terms=terms)

    assert_same_on_replicas(make, numbers(), loss=loss)


def test_an_empty_replica():
    # The last batch has one example for several replicas.
    assert_same_on_replicas(both, numbers(15), loss=from_logits)


def test_regularizers():
    options = {
        "kernel_regularizer": keras.regularizers.L2(0.1),
        "activity_regularizer": keras.regularizers.L2(0.1),
    }
    assert_same_on_replicas(lambda: both(student=options), numbers(), loss=from_logits)


def test_sample_weights():
    data = (*numbers(), np.linspace(0, 2, EXAMPLES).astype("float32"))
    assert_same_on_replicas(both, data, loss=from_logits)


def test_missing_labels():
    x, y = numbers()
    # The replicas have different numbers of labels.
    y = np.where(np.arange(EXAMPLES) % 5 < 2, -1, y)
    assert_same_on_replicas(both, (x, y), loss=from_logits)


def test_no_labels():
    assert_same_on_replicas(both, (numbers()[0],), loss=None)


def test_padded_tokens():
    random = np.random.default_rng(0)
    x, y = random.integers(1, 20, (EXAMPLES, 5)), random.integers(0, CLASSES, (EXAMPLES, 5))
    # Texts of different lengths: the replicas have different numbers of tokens.
    x = np.where(np.arange(5) < random.integers(1, 6, (EXAMPLES, 1)), x, 0)

    def make():
        terms = [Term(KLDivergence()), Term(SimilarityPreserving(), "features", "features")]
        return Distiller(student=tokens("student"), teacher=tokens("teacher"), terms=terms)

    assert_same_on_replicas(make, (x, y), loss=from_logits)


@pytest.mark.parametrize("synchronized", [False, True])
def test_batch_normalization(synchronized):
    def student(name):
        inputs = keras.Input((8,))
        x = keras.layers.Dense(6, name="features")(inputs)
        x = keras.layers.BatchNormalization(synchronized=synchronized)(x)
        return keras.Model(inputs, keras.layers.Dense(CLASSES, name="logits")(x), name=name)

    def make():
        return Distiller(student=student("student"), teacher=dense("teacher"), terms=[Term(KLDivergence())])

    assert_same_on_replicas(make, numbers(), loss=from_logits)


def test_steps_per_execution():
    assert_same_on_replicas(both, numbers(), loss=from_logits, steps_per_execution=2)


TEACHERS = {
    "ensemble": lambda student: Ensemble({"one": dense("one"), "two": dense("two")}),
    "average": lambda student: EMATeacher(student, decay=0.5),
}


@pytest.mark.parametrize("name", TEACHERS)
def test_teachers(name):
    def make():
        student = dense("student")
        return Distiller(student=student, teacher=TEACHERS[name](student), terms=[Term(KLDivergence())])

    assert_same_on_replicas(make, numbers(), loss=from_logits)


def test_crops_of_a_mean_teacher():
    def make():
        student = MultiCrop(dense("student"))
        teacher = EMATeacher(student, decay=0.5, inputs=lambda crops: crops[0])
        term = Term(CenteredKL(0.5, 0.3, pairs="crops"))
        return Distiller(student=student, teacher=teacher, terms=[term], inputs=crops)

    x = numbers()[0]
    crops = [np.stack([x, x + 0.1], axis=1), np.stack([x - 0.1, 2 * x, 0.5 * x], axis=1)]
    assert_same_on_replicas(make, lambda: tf.data.Dataset.from_tensor_slices((tuple(crops),)).batch(BATCH), loss=None)


def test_a_cached_teacher(tmp_path):
    x, y = numbers()
    keras.utils.set_random_seed(0)
    label(dense("teacher"), x, tmp_path, verbose=0)
    stored = open_cache(tmp_path)

    def make():
        return Distiller(student=dense("student"), teacher=stored.teacher, terms=[Term(KLDivergence())])

    def data():
        shuffled = indexed(tf.data.Dataset.from_tensor_slices((x, y))).shuffle(9, 0, reshuffle_each_iteration=False)
        return stored.join(shuffled.batch(BATCH))

    assert_same_on_replicas(make, data, loss=from_logits)


def test_a_balance():
    def make():
        return Distiller(
            student=dense("student"), teacher=dense("teacher"), terms=[Term(KLDivergence(), weight=Balance(0.5, 0.5))]
        )

    assert_same_on_replicas(make, numbers(), loss=from_logits)


def test_mutual_learning():
    assert_same_on_replicas(lambda: MutualDistiller([dense("one"), dense("two")]), numbers(), loss=from_logits)


def test_across_replicas_is_optional():
    def make(across):
        term = Term(SimilarityPreserving(), "features", "features", across_replicas=across)
        return lambda: Distiller(student=dense("student"), teacher=dense("teacher"), terms=[term])

    logs = {across: trained(2, make(across), numbers(), loss=from_logits)[1] for across in (True, False)}
    name = "similarity_preserving_loss"
    assert abs(logs[True][name][0] - logs[False][name][0]) > 1e-3 * logs[True][name][0]


def test_compile_outside_the_scope():
    with strategy(2).scope():
        model = both()
    model.compile("adam", from_logits, metrics=["accuracy"])
    history = model.fit(*numbers(), batch_size=6, epochs=2, verbose=0).history
    assert history["loss"][1] < history["loss"][0]
