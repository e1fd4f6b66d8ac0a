"""One update, on however many devices a step is dealt out."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import Balance, Distiller, MutualDistiller, Term, losses
from keras_distill.batch import with_index
from keras_distill.losses import DistillationLoss, Hint, KullbackLeibler, SimilarityPreserving

pytestmark = pytest.mark.replicas

# Dealt out unevenly on two devices and on four, none of which goes without.
EXAMPLES, BATCH, CLASSES = 18, 7, 4
LOSSES = {
    name: cls
    for name, cls in inspect.getmembers(losses, inspect.isclass)
    if issubclass(cls, DistillationLoss) and cls is not DistillationLoss
}
# Losses of several activations.
SPECIAL = {
    "AttentionScores": (("query", "key"),) * 2,
    "AttentionRelation": (("query", "key"),) * 2,
    "FlowOfSolution": (("map", "deeper"),) * 2,
}
STRATEGIES = {}


def strategy(count):
    """One strategy for each number of replicas: a second one would break the collectives of the first."""
    if count not in STRATEGIES:
        devices = [f"CPU:{number}" for number in range(count)]
        STRATEGIES[count] = tf.distribute.MirroredStrategy(devices, tf.distribute.ReductionToOneDevice())
    return tf.distribute.get_strategy() if count == 1 else STRATEGIES[count]


def network(name, **options):
    """Maps, tokens, queries and keys, a vector and logits of 6x6 pictures."""
    inputs = keras.Input((6, 6, 2))
    x = keras.layers.Conv2D(4, 3, padding="same", name="map", **options)(inputs)
    x = keras.layers.Conv2D(4, 3, padding="same", activation="tanh", name="deeper")(x)
    tokens = keras.layers.Reshape((36, 4), name="tokens")(x)
    query = keras.layers.Reshape((36, 2, 2), name="query")(keras.layers.Dense(4)(tokens))
    key = keras.layers.Reshape((36, 2, 2), name="key")(keras.layers.Dense(4)(keras.layers.Reshape((36, 4))(query)))
    vector = keras.layers.Dense(5, activation="tanh", name="vector")(keras.layers.Flatten()(key))
    return keras.Model(inputs, keras.layers.Dense(CLASSES, name="logits")(vector), name=name)


def pictures(count=EXAMPLES):
    random = np.random.default_rng(0)
    return random.normal(size=(count, 6, 6, 2)).astype("float32"), random.integers(0, CLASSES, count)


def taps_of(cls):
    """Where a loss may be put: at the lowest rank that it takes."""
    if cls.__name__ in SPECIAL:
        return SPECIAL[cls.__name__]
    if cls.logits:
        return "output", "output"
    for tap, shape in (("vector", (None, 5)), ("tokens", (None, 36, 4)), ("map", (None, 6, 6, 4))):
        try:
            if getattr(cls, "rank", None) in (None, len(shape)):
                cls().build(shape, shape)
                return tap, tap
        except ValueError:
            continue
    raise AssertionError(f"{cls.__name__} takes none of the network's activations")


def trained(count, make, data, batch_size=BATCH, epochs=2, loss="sparse_categorical_crossentropy", **options):
    """Weights, and the logs, after some steps on a number of replicas; the last batch is uneven."""
    with strategy(count).scope():
        keras.utils.set_random_seed(0)
        model = make()
        model.compile(keras.optimizers.SGD(0.05), loss, metrics=["accuracy"], **options)
        dataset = tf.data.Dataset.from_tensor_slices(data).batch(batch_size)
        history = model.fit(dataset, epochs=epochs, verbose=0).history
        evaluated = model.evaluate(dataset, verbose=0, return_dict=True)
    history |= {f"evaluated_{name}": [value] for name, value in evaluated.items()}
    return [np.array(weight) for weight in model.weights], history


def assert_alike(count, make, data, **options):
    (weights, logs), (others, other_logs) = (trained(number, make, data, **options) for number in (1, count))
    scale = max(np.abs(weight).max() for weight in weights)
    for weight, other in zip(weights, others, strict=True):
        np.testing.assert_allclose(other, weight, rtol=1e-5, atol=1e-5 * scale)
    assert set(logs) == set(other_logs)
    for name, values in logs.items():
        # Rounding, times a low temperature.
        np.testing.assert_allclose(other_logs[name], values, rtol=3e-5, atol=1e-6, err_msg=name)


def distiller(*terms, student=network, **options):
    models = student("student"), network("teacher")
    models[0].layers[-1].activation = keras.activations.linear
    return Distiller(*models, list(terms), **options)


from_logits = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
two_or_four = pytest.mark.parametrize("count", [2, 4])


@two_or_four
@pytest.mark.parametrize("name", LOSSES)
def test_every_loss(name, count):
    x, y = pictures()
    inputs = with_index(x, np.arange(EXAMPLES)) if name == "ContrastiveRepresentation" else x
    taps = taps_of(LOSSES[name])
    settings = {"size": 8, "dim": 4} if name == "ContrastiveRepresentation" else {}
    assert_alike(count, lambda: distiller(Term(LOSSES[name](**settings), *taps)), (inputs, y), loss=from_logits)


def dense(name, **options):
    """Eight numbers to logits, which unlike a convolution can do without any example."""
    inputs = keras.Input((8,))
    x = keras.layers.Dense(6, activation="tanh", name="features", **options)(inputs)
    return keras.Model(inputs, keras.layers.Dense(CLASSES, name="logits")(x), name=name)


def numbers(count=EXAMPLES):
    random = np.random.default_rng(0)
    return random.normal(size=(count, 8)).astype("float32"), random.integers(0, CLASSES, count)


def both(**options):
    """A term of the logits and one of all examples together."""
    terms = [Term(KullbackLeibler()), Term(SimilarityPreserving(), "features", "features")]
    return Distiller(dense("student", **options.pop("student", {})), dense("teacher"), terms, **options)


@two_or_four
@pytest.mark.parametrize("loss", ["sparse_categorical_crossentropy", from_logits], ids=["string", "instance"])
def test_supervised_losses(loss, count):
    def make():
        student = dense("student")
        softmax = keras.Model(student.inputs, keras.layers.Softmax()(student.output))
        terms = [Term(Hint(), "features", "features")]
        return Distiller(softmax if loss != from_logits else student, dense("teacher"), terms)

    assert_alike(count, make, numbers(), loss=loss)


@two_or_four
def test_an_empty_share(count):
    # The last batch is one example.
    assert_alike(count, both, numbers(15), loss=from_logits)


@two_or_four
def test_regularisers(count):
    options = {
        "kernel_regularizer": keras.regularizers.L2(0.1),
        "activity_regularizer": keras.regularizers.L2(0.1),
    }
    assert_alike(count, lambda: both(student=options), numbers(), loss=from_logits)


@two_or_four
def test_sample_weights(count):
    data = (*numbers(), np.linspace(0, 2, EXAMPLES).astype("float32"))
    assert_alike(count, both, data, loss=from_logits)


@two_or_four
def test_missing_labels(count):
    x, y = numbers()
    # Not as many in each share.
    y = np.where(np.arange(EXAMPLES) % 5 < 2, -1, y)
    assert_alike(count, both, (x, y), loss=from_logits)


@two_or_four
def test_no_labels(count):
    def run(number):
        with strategy(number).scope():
            keras.utils.set_random_seed(0)
            model = both()
            model.compile(keras.optimizers.SGD(0.05))
            history = model.fit(tf.data.Dataset.from_tensor_slices(numbers()[0]).batch(BATCH), verbose=0).history
        return [np.array(weight) for weight in model.weights], history

    (weights, logs), (others, other_logs) = run(1), run(count)
    for weight, other in zip(weights, others, strict=True):
        np.testing.assert_allclose(other, weight, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(other_logs["loss"], logs["loss"], rtol=1e-5)


def tokens(name):
    inputs = keras.Input((5,), dtype="int32")
    x = keras.layers.Embedding(20, 6, mask_zero=True)(inputs)
    x = keras.layers.Dense(6, name="features")(x)
    return keras.Model(inputs, keras.layers.Dense(CLASSES, name="logits")(x), name=name)


@two_or_four
def test_padded_tokens(count):
    random = np.random.default_rng(0)
    x, y = random.integers(1, 20, (EXAMPLES, 5)), random.integers(0, CLASSES, (EXAMPLES, 5))
    # Texts of unlike lengths, so that the shares hold unlike numbers of tokens.
    x = np.where(np.arange(5) < random.integers(1, 6, (EXAMPLES, 1)), x, 0)

    def make():
        terms = [Term(KullbackLeibler()), Term(SimilarityPreserving(), "features", "features")]
        return Distiller(tokens("student"), tokens("teacher"), terms)

    assert_alike(count, make, (x, y), loss=from_logits)


@two_or_four
def test_synchronised_batch_normalization(count):
    def student(name):
        inputs = keras.Input((8,))
        x = keras.layers.Dense(6, name="features")(inputs)
        x = keras.layers.BatchNormalization(synchronized=True)(x)
        return keras.Model(inputs, keras.layers.Dense(CLASSES, name="logits")(x), name=name)

    def make():
        return Distiller(student("student"), dense("teacher"), [Term(KullbackLeibler())])

    assert_alike(count, make, numbers(), loss=from_logits)


@two_or_four
def test_a_balance(count):
    def make():
        return Distiller(dense("student"), dense("teacher"), [Term(KullbackLeibler(), weight=Balance(0.5, 0.5))])

    assert_alike(count, make, numbers(), loss=from_logits)


@two_or_four
def test_peers(count):
    assert_alike(count, lambda: MutualDistiller([dense("one"), dense("two")]), numbers(), loss=from_logits)


def test_a_loss_of_all_examples_may_stay_within_its_replica():
    def make(across):
        term = Term(SimilarityPreserving(), "features", "features", across_replicas=across)
        return lambda: Distiller(dense("student"), dense("teacher"), [term])

    logs = {across: trained(2, make(across), numbers(), loss=from_logits)[1] for across in (True, False)}
    name = "similarity_preserving_loss"
    assert abs(logs[True][name][0] - logs[False][name][0]) > 1e-3 * logs[True][name][0]
