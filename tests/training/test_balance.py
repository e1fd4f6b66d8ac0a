import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import Balance, Distiller, Term, load_distiller
from keras_distill.data.batch import Batch
from keras_distill.losses import DistillationLoss, Hint, KLDivergence
from keras_distill.schedules import Linear, WarmUp
from tests.support.helpers import assert_same_weights, compiled, data, features, fitted, mlp, weights_of


def weights_over(supervised, terms, ratio, momentum):
    """Both running means as Adam has them: each corrected for having started at 0."""
    result, means = [], np.zeros(2)
    for step, losses in enumerate(np.stack([supervised, terms], axis=1).astype("float64"), start=1):
        means = momentum * means + (1 - momentum) * losses
        corrected = means / (1 - momentum**step)
        result.append(ratio * corrected[0] / corrected[1])
    return result


def built(*arguments, **settings):
    balance = Balance(*arguments, **settings)
    balance.build()
    return balance


def next_weight(balance, supervised, term):
    """The weight of a training step with these losses."""
    balance.update(tf.constant(term, "float32"), tf.constant(supervised, "float32"), Batch(np.zeros((1, 1))))
    return balance.value(0)


def distiller(weight, teacher=None, strategy=None, **options):
    with (strategy or tf.distribute.get_strategy()).scope():
        keras.utils.set_random_seed(0)
        teacher = teacher or mlp(16, name="teacher")
        terms = [Term(KLDivergence(), weight=0.5), Term(Hint(), "features", "features", head="auto", weight=weight)]
        return compiled(Distiller(student=mlp(), teacher=teacher, terms=terms), keras.optimizers.Adam(0.01), **options)


class Steps(keras.callbacks.Callback):
    """Keeps what every single step logged."""

    def __init__(self):
        super().__init__()
        self.logs, self.seen = [], {}

    def on_epoch_begin(self, epoch, logs=None):
        self.seen = {}

    def on_train_batch_end(self, batch, logs=None):
        # Logs are means since the epoch began.
        self.logs.append({key: (batch + 1) * value - batch * self.seen.get(key, 0.0) for key, value in logs.items()})
        self.seen = logs


def stepwise(model, x, y, epochs=1):
    steps = Steps()
    fitted(model, x, y, epochs=epochs, callbacks=[steps])
    return {key: np.array([logs[key] for logs in steps.logs]) for key in steps.logs[0]}


@pytest.mark.parametrize("momentum", [0.99, 0.9, 0.0])
def test_matches_corrected_running_means(momentum):
    supervised, terms = np.exp(features(2, 20))
    balance = built(0.3, momentum)
    found = [float(next_weight(balance, s, t)) for s, t in zip(supervised, terms)]
    np.testing.assert_allclose(found, weights_over(supervised, terms, 0.3, momentum), rtol=1e-4)


def test_known_values():
    balance = built(0.1, momentum=0.5)
    # 0.1 * 2 / 4; then the means are 2/4 + 1/2 and 4/4 + 1/2 in halves: 0.1 * 1 / 1.5.
    np.testing.assert_allclose(next_weight(balance, 2.0, 4.0), 0.05, rtol=1e-6)
    np.testing.assert_allclose(next_weight(balance, 1.0, 1.0), 0.1 / 1.5, rtol=1e-6)


def test_in_fit_the_weights_are_those_of_the_losses_logged():
    logged = stepwise(distiller(Balance(0.2, 0.9)), *data(), epochs=3)
    expected = weights_over(logged["supervised_loss"], logged["hint_loss"], 0.2, 0.9)
    np.testing.assert_allclose(logged["hint_weight"], expected, rtol=1e-3)
    total = logged["supervised_loss"] + 0.5 * logged["kl_divergence_loss"] + logged["hint_weight"] * logged["hint_loss"]
    np.testing.assert_allclose(logged["loss"], total, rtol=1e-3)
    assert "kl_divergence_weight" not in logged


def test_the_ratio_holds_while_both_losses_fall():
    logged = stepwise(distiller(Balance(0.2, 0.8)), *data(), epochs=20)
    raw = logged["hint_loss"] / logged["supervised_loss"]
    assert logged["supervised_loss"][-12:].mean() < 0.8 * logged["supervised_loss"][:12].mean()
    # A number as weight would have lost a third of the term's share.
    assert raw[-12:].mean() < 0.67 * raw[:12].mean()
    share = logged["hint_weight"] * raw
    # The means lag a little behind losses that fall.
    np.testing.assert_allclose([share[:12].mean(), share.mean(), share[-12:].mean()], 0.2, rtol=0.12)


@keras.saving.register_keras_serializable("tests")
class Scaled(DistillationLoss):
    def __init__(self, scale=1.0, **kwargs):
        super().__init__(**kwargs)
        self.scale = scale

    def compare(self, student, teacher, batch):
        return self.scale * keras.ops.mean(keras.ops.square(student - teacher), axis=-1)


def test_the_scale_of_a_loss_does_not_matter():
    results = []
    for scale in (1.0, 2.0**14):
        keras.utils.set_random_seed(0)
        student, teacher = mlp(), mlp(8, name="teacher")
        term = Term(Scaled(scale), "features", "features", weight=Balance(0.5))
        fitted(compiled(Distiller(student=student, teacher=teacher, terms=[term])), *data(), epochs=2)
        results.append(weights_of(student))
    assert_same_weights(*results)


def test_the_ratio_may_be_a_schedule():
    logged = stepwise(distiller(Balance(Linear(0.0, 1.0, 4), 0.0)), *data(), epochs=2)
    share = logged["hint_weight"] * logged["hint_loss"] / logged["supervised_loss"]
    np.testing.assert_allclose(share, [0, 0.25, 0.5, 0.75, 1, 1], atol=1e-3)


def test_evaluation_uses_the_weight_and_leaves_it_alone():
    model = distiller(Balance(0.2))
    before = model.evaluate(*data(), verbose=0, return_dict=True)
    assert before["hint_weight"] == 0 and np.isfinite(before["loss"])
    fitted(model, *data())
    means = weights_of(model.term_weights[0])
    assert all(mean > 0 for mean in means)
    found = model.evaluate(*data(), verbose=0, return_dict=True)
    assert_same_weights(weights_of(model.term_weights[0]), means, rtol=0, atol=0)
    np.testing.assert_allclose(found["hint_weight"], 0.2 * means[0] / means[1], rtol=1e-6)
    weighted = 0.5 * found["kl_divergence_loss"] + found["hint_weight"] * found["hint_loss"]
    np.testing.assert_allclose(found["loss"], found["supervised_loss"] + weighted, rtol=1e-5)
    # Without labels too.
    assert model.evaluate(data()[0], verbose=0, return_dict=True)["hint_weight"] == found["hint_weight"]


@pytest.mark.parametrize("saved_as", ["d.keras", "d.weights.h5"])
def test_a_resumed_run_goes_on_bit_for_bit(tmp_path, saved_as):
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
    unbroken = fitted(first, *data(), epochs=2)
    assert fitted(second, *data(), epochs=2) == unbroken
    assert_same_weights(weights_of(first), weights_of(second), rtol=0, atol=0)


@pytest.mark.parametrize("options", [{"jit_compile": True}, {"run_eagerly": True}, {"steps_per_execution": 3}])
def test_options_of_compile_change_nothing(options):
    plain, other = (
        fitted(distiller(Balance(0.2, 0.8), **chosen), *data(), epochs=2)
        for chosen in ({"jit_compile": False}, options)
    )
    for name in plain:
        np.testing.assert_allclose(plain[name], other[name], rtol=1e-4, err_msg=name)


def test_replicas_have_one_weight_and_make_the_update_of_one():
    replicas = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], tf.distribute.ReductionToOneDevice())
    one, two = (distiller(Balance(0.2, 0.8), strategy=strategy) for strategy in (None, replicas))
    logged, same = (fitted(model, *data(), epochs=3) for model in (one, two))
    for name in logged:
        np.testing.assert_allclose(logged[name], same[name], rtol=1e-4, err_msg=name)
    assert_same_weights(weights_of(one.student), weights_of(two.student), rtol=1e-4, atol=1e-6)
    for mean in two.term_weights[0].variables:
        copies = replicas.experimental_local_results(mean.value)
        assert len(copies) == 2 and copies[0].numpy() == copies[1].numpy()


def test_under_half_precision():
    keras.config.set_dtype_policy("mixed_float16")
    logged = fitted(distiller(Balance(0.2, 0.0)), *data(), epochs=2)
    share = np.multiply(logged["hint_weight"], logged["hint_loss"]) / logged["supervised_loss"]
    np.testing.assert_allclose(share, 0.2, rtol=0.1)


@pytest.mark.parametrize(
    ("supervised", "term", "weight"),
    [
        (1.0, 0.0, 0.0),
        (1.0, 1e-30, 1e6),
        # Losses may be negative, as that of keras.losses.CosineSimilarity; a weight is not.
        (-0.5, 1.0, 0.5),
    ],
)
def test_the_weight_is_always_usable(supervised, term, weight):
    np.testing.assert_allclose(next_weight(built(), supervised, term), weight, rtol=1e-6)


@pytest.mark.parametrize(("supervised", "term"), [(np.nan, 1.0), (1.0, np.inf), (0.0, 5.0)])
def test_steps_without_a_finite_loss_leave_the_means(supervised, term):
    balance = built()
    next_weight(balance, 1.0, 2.0)
    np.testing.assert_allclose(next_weight(balance, supervised, term), 0.5, rtol=1e-6)


def test_a_batch_without_labels_moves_nothing():
    x, y = data()
    # The second of three.
    y = np.where((np.arange(24) >= 8) & (np.arange(24) < 16), -1, y)
    logged = stepwise(distiller(Balance(0.2, 0.8)), x, y)
    supervised, terms = logged["supervised_loss"], logged["hint_loss"]
    np.testing.assert_allclose(supervised[1], 0, atol=1e-6)
    expected = weights_over(supervised[[0, 2]], terms[[0, 2]], 0.2, 0.8)
    np.testing.assert_allclose(logged["hint_weight"], [expected[0], expected[0], expected[1]], rtol=1e-4)


def test_terms_have_balances_of_their_own():
    terms = [Term(Hint(), weight=balance) for balance in [Balance(0.2)] * 2]
    made = [Distiller(student=mlp(), teacher=mlp(name="teacher"), terms=terms) for _ in range(2)]
    assert len({id(balance) for model in made for balance in model.term_weights}) == 4
    assert not terms[0].weight.built
    revived = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(terms[0]))
    assert (revived.weight.ratio, revived.weight.momentum) == (0.2, 0.99)
    assert not made[0].term_weights[0].trainable_variables


def test_without_a_supervised_loss_there_is_nothing_to_balance_with():
    model = Distiller(
        student=mlp(), teacher=mlp(name="teacher"), terms=[Term(Hint(), weight=Balance()), Term(KLDivergence())]
    )
    with pytest.raises(ValueError, match=r"terms \['hint'\] follow the supervised loss, but `compile` got"):
        model.compile("sgd")
    with pytest.raises(ValueError, match="'hint_loss' is a Balance, .* but the batch has no labels"):
        fitted(compiled(model), data()[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio": 0.0}, "`ratio` must be a finite number"),
        ({"momentum": 1.0}, "`momentum` must be a finite number >= 0 and < 1. Received: 1.0"),
        ({"momentum": Linear(0.1, 0.2, 3)}, "`momentum` must be a finite number >= 0 and < 1. Received"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        Balance(**settings)
