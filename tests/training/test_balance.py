"""`Balance`: a term weight that follows the ratio of the running means of two losses."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import Balance, Distiller, Term, load_distiller
from keras_distill.data.batch import Batch
from keras_distill.losses import DistillationLoss, Hint, KLDivergence
from keras_distill.schedules import Linear, WarmUp
from tests.support.helpers import assert_same_weights, compiled, data, features, fitted, mlp, weights_of


def expected_weights(supervised, terms, ratio, momentum):
    """Return the weight after each step. Both running means have the bias correction of Adam."""
    result, means = [], np.zeros(2)
    for step, losses in enumerate(np.stack([supervised, terms], axis=1).astype("float64"), start=1):
        means = momentum * means + (1 - momentum) * losses
        corrected = means / (1 - momentum**step)
        result.append(ratio * corrected[0] / corrected[1])
    return result


def built_balance(*arguments, **settings):
    balance = Balance(*arguments, **settings)
    balance.build()
    return balance


def next_weight(balance, supervised, term):
    """Return the weight after a training step with these losses."""
    balance.update(tf.constant(term, "float32"), tf.constant(supervised, "float32"), Batch(np.zeros((1, 1))))
    return balance.value(0)


def distiller(weight, teacher=None, strategy=None, **options):
    with (strategy or tf.distribute.get_strategy()).scope():
        keras.utils.set_random_seed(0)
        teacher = teacher or mlp(16, name="teacher")
        terms = [Term(KLDivergence(), weight=0.5), Term(Hint(), "features", "features", head="auto", weight=weight)]
        return compiled(Distiller(student=mlp(), teacher=teacher, terms=terms), keras.optimizers.Adam(0.01), **options)


class StepLogs(keras.callbacks.Callback):
    """Record the logs of every step."""

    def __init__(self):
        super().__init__()
        self.logs, self.epoch_means = [], {}

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch_means = {}

    def on_train_batch_end(self, batch, logs=None):
        # Keras logs means over the epoch so far. Recover the value of this step.
        self.logs.append(
            {key: (batch + 1) * value - batch * self.epoch_means.get(key, 0.0) for key, value in logs.items()}
        )
        self.epoch_means = logs


def step_logs(model, x, y, epochs=1):
    """Fit, and return the logs of every step, `{name: array of shape [steps]}`."""
    recorder = StepLogs()
    fitted(model, x, y, epochs=epochs, callbacks=[recorder])
    return {key: np.array([logs[key] for logs in recorder.logs]) for key in recorder.logs[0]}


@pytest.mark.parametrize("momentum", [0.99, 0.9, 0.0])
def test_matches_corrected_running_means(momentum):
    supervised, terms = np.exp(features(2, 20))
    balance = built_balance(0.3, momentum)
    weights = [float(next_weight(balance, s, t)) for s, t in zip(supervised, terms)]
    np.testing.assert_allclose(weights, expected_weights(supervised, terms, 0.3, momentum), rtol=1e-4)


def test_known_values():
    balance = built_balance(0.1, momentum=0.5)
    # Step 1: 0.1 * 2 / 4. Step 2: the means are (1 + 1) / 2 and (2 + 1) / 2, with the same bias correction.
    np.testing.assert_allclose(next_weight(balance, 2.0, 4.0), 0.05, rtol=1e-6)
    np.testing.assert_allclose(next_weight(balance, 1.0, 1.0), 0.1 / 1.5, rtol=1e-6)


def test_weights_in_fit_match_the_logged_losses():
    logged = step_logs(distiller(Balance(0.2, 0.9)), *data(), epochs=3)
    expected = expected_weights(logged["supervised_loss"], logged["hint_loss"], 0.2, 0.9)
    np.testing.assert_allclose(logged["hint_weight"], expected, rtol=1e-3)
    total = logged["supervised_loss"] + 0.5 * logged["kl_divergence_loss"] + logged["hint_weight"] * logged["hint_loss"]
    np.testing.assert_allclose(logged["loss"], total, rtol=1e-3)
    assert "kl_divergence_weight" not in logged


def test_ratio_stays_constant_while_losses_decrease():
    logged = step_logs(distiller(Balance(0.2, 0.8)), *data(), epochs=20)
    raw = logged["hint_loss"] / logged["supervised_loss"]
    assert logged["supervised_loss"][-12:].mean() < 0.8 * logged["supervised_loss"][:12].mean()
    # A constant weight would reduce the term's contribution by a third.
    assert raw[-12:].mean() < 0.67 * raw[:12].mean()
    share = logged["hint_weight"] * raw
    # The running means lag behind decreasing losses.
    np.testing.assert_allclose([share[:12].mean(), share.mean(), share[-12:].mean()], 0.2, rtol=0.12)


@keras.saving.register_keras_serializable("tests")
class Scaled(DistillationLoss):
    def __init__(self, scale=1.0, **kwargs):
        super().__init__(**kwargs)
        self.scale = scale

    def compare(self, student, teacher, batch):
        return self.scale * keras.ops.mean(keras.ops.square(student - teacher), axis=-1)


def test_result_is_independent_of_the_loss_scale():
    results = []
    for scale in (1.0, 2.0**14):
        keras.utils.set_random_seed(0)
        student, teacher = mlp(), mlp(8, name="teacher")
        term = Term(Scaled(scale), "features", "features", weight=Balance(0.5))
        fitted(compiled(Distiller(student=student, teacher=teacher, terms=[term])), *data(), epochs=2)
        results.append(weights_of(student))
    assert_same_weights(*results)


def test_ratio_accepts_a_schedule():
    logged = step_logs(distiller(Balance(Linear(0.0, 1.0, 4), 0.0)), *data(), epochs=2)
    share = logged["hint_weight"] * logged["hint_loss"] / logged["supervised_loss"]
    np.testing.assert_allclose(share, [0, 0.25, 0.5, 0.75, 1, 1], atol=1e-3)


def test_evaluate_uses_the_weight_without_updating_it():
    model = distiller(Balance(0.2))
    before = model.evaluate(*data(), verbose=0, return_dict=True)
    assert before["hint_weight"] == 0 and np.isfinite(before["loss"])
    fitted(model, *data())
    means = weights_of(model.term_weights[0])
    assert all(mean > 0 for mean in means)
    after = model.evaluate(*data(), verbose=0, return_dict=True)
    assert_same_weights(weights_of(model.term_weights[0]), means, rtol=0, atol=0)
    np.testing.assert_allclose(after["hint_weight"], 0.2 * means[0] / means[1], rtol=1e-6)
    weighted = 0.5 * after["kl_divergence_loss"] + after["hint_weight"] * after["hint_loss"]
    np.testing.assert_allclose(after["loss"], after["supervised_loss"] + weighted, rtol=1e-5)
    # The same without labels.
    assert model.evaluate(data()[0], verbose=0, return_dict=True)["hint_weight"] == after["hint_weight"]


@pytest.mark.parametrize("saved_as", ["d.keras", "d.weights.h5"])
def test_resumed_training_is_bit_exact(tmp_path, saved_as):
    teacher = mlp(16, name="teacher")
    first = distiller(Balance(WarmUp(0.2, 5), 0.8), teacher)
    fitted(first, *data())
    if saved_as == "d.keras":
        first.save(tmp_path / saved_as)
        second = load_distiller(tmp_path / saved_as, teacher)
    else:
        first.save_weights(tmp_path / saved_as)
        second = distiller(Balance(WarmUp(0.2, 5), 0.8), teacher)
        second.load_weights(tmp_path / saved_as)
    assert_same_weights(weights_of(first.term_weights[0]), weights_of(second.term_weights[0]), rtol=0, atol=0)
    uninterrupted = fitted(first, *data(), epochs=2)
    assert fitted(second, *data(), epochs=2) == uninterrupted
    assert_same_weights(weights_of(first), weights_of(second), rtol=0, atol=0)


@pytest.mark.parametrize("options", [{"jit_compile": True}, {"run_eagerly": True}, {"steps_per_execution": 3}])
def test_compile_options_give_the_same_history(options):
    plain, other = (
        fitted(distiller(Balance(0.2, 0.8), **chosen), *data(), epochs=2)
        for chosen in ({"jit_compile": False}, options)
    )
    for name in plain:
        np.testing.assert_allclose(plain[name], other[name], rtol=1e-4, err_msg=name)


def test_two_replicas_match_one():
    replicas = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], tf.distribute.ReductionToOneDevice())
    one, two = (distiller(Balance(0.2, 0.8), strategy=strategy) for strategy in (None, replicas))
    logged, logged_by_two = (fitted(model, *data(), epochs=3) for model in (one, two))
    for name in logged:
        np.testing.assert_allclose(logged[name], logged_by_two[name], rtol=1e-4, err_msg=name)
    assert_same_weights(weights_of(one.student), weights_of(two.student), rtol=1e-4, atol=1e-6)
    for mean in two.term_weights[0].variables:
        copies = replicas.experimental_local_results(mean.value)
        assert len(copies) == 2 and copies[0].numpy() == copies[1].numpy()


def test_mixed_float16():
    keras.config.set_dtype_policy("mixed_float16")
    logged = fitted(distiller(Balance(0.2, 0.0)), *data(), epochs=2)
    share = np.multiply(logged["hint_weight"], logged["hint_loss"]) / logged["supervised_loss"]
    np.testing.assert_allclose(share, 0.2, rtol=0.1)


@pytest.mark.parametrize(
    ("supervised", "term", "weight"),
    [
        (1.0, 0.0, 0.0),
        (1.0, 1e-30, 1e6),
        # Losses may be negative, such as keras.losses.CosineSimilarity. A weight must not be.
        (-0.5, 1.0, 0.5),
    ],
)
def test_weight_is_finite_and_not_negative(supervised, term, weight):
    np.testing.assert_allclose(next_weight(built_balance(), supervised, term), weight, rtol=1e-6)


@pytest.mark.parametrize(("supervised", "term"), [(np.nan, 1.0), (1.0, np.inf), (0.0, 5.0)])
def test_non_finite_and_zero_losses_do_not_update_the_means(supervised, term):
    balance = built_balance()
    next_weight(balance, 1.0, 2.0)
    np.testing.assert_allclose(next_weight(balance, supervised, term), 0.5, rtol=1e-6)


def test_batch_without_labels_does_not_update_the_means():
    x, y = data()
    # The second of three batches has no labels.
    y = np.where((np.arange(24) >= 8) & (np.arange(24) < 16), -1, y)
    logged = step_logs(distiller(Balance(0.2, 0.8)), x, y)
    supervised, terms = logged["supervised_loss"], logged["hint_loss"]
    np.testing.assert_allclose(supervised[1], 0, atol=1e-6)
    expected = expected_weights(supervised[[0, 2]], terms[[0, 2]], 0.2, 0.8)
    np.testing.assert_allclose(logged["hint_weight"], [expected[0], expected[0], expected[1]], rtol=1e-4)


def test_each_term_gets_its_own_balance():
    terms = [Term(Hint(), weight=balance) for balance in [Balance(0.2)] * 2]
    distillers = [Distiller(student=mlp(), teacher=mlp(name="teacher"), terms=terms) for _ in range(2)]
    assert len({id(balance) for model in distillers for balance in model.term_weights}) == 4
    assert not terms[0].weight.built
    revived = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(terms[0]))
    assert (revived.weight.ratio, revived.weight.momentum) == (0.2, 0.99)
    assert not distillers[0].term_weights[0].trainable_variables


def test_missing_supervised_loss_raises():
    model = Distiller(
        student=mlp(), teacher=mlp(name="teacher"), terms=[Term(Hint(), weight=Balance()), Term(KLDivergence())]
    )
    with pytest.raises(ValueError, match=r"terms \['hint'\] follow the supervised loss, but `compile` got"):
        model.compile("sgd")
    with pytest.raises(ValueError, match="term 'hint' is a Balance, .* but the batch has no labels"):
        fitted(compiled(model), data()[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio": 0.0}, "`ratio` must be a finite number"),
        ({"momentum": 1.0}, "`momentum` must be a finite number >= 0 and < 1. Received: 1.0"),
        ({"momentum": Linear(0.1, 0.2, 3)}, "`momentum` must be a finite number >= 0 and < 1. Received"),
    ],
)
def test_invalid_arguments_raise(settings, message):
    with pytest.raises(ValueError, match=message):
        Balance(**settings)
