import keras
import numpy as np
import pytest

from keras_distill import OUTPUT, Distiller, Term, _compat
from keras_distill.cache import label, open_cache
from keras_distill.data.batch import Batch
from keras_distill.losses import Hint, KLDivergence
from keras_distill.schedules import Linear
from keras_distill.teachers import CachedTeacher, EMATeacher, Ensemble, most_confident
from tests.support.helpers import compiled, data, features, fitted, mlp, softmax, weights_of


def members(count=3):
    return [mlp(width, name=f"teacher_{width}") for width in range(4, 4 + count)]


def activations_of(ensemble, x, taps=(OUTPUT,), **batch):
    ensemble.connect(list(taps))
    return ensemble.activations(Batch(x, **batch))


def test_the_mean_of_logits():
    models, x = members(), features(5, 8)
    expected = np.mean([model.predict(x, verbose=0) for model in models], axis=0)
    np.testing.assert_allclose(activations_of(Ensemble(models), x)[OUTPUT], expected, rtol=1e-5, atol=1e-6)


def test_weights_are_normalized():
    models, x = members(), features(5, 8)
    logits = [model.predict(x, verbose=0) for model in models]
    expected = (2 * logits[0] + 1 * logits[1] + 0 * logits[2]) / 3
    np.testing.assert_allclose(activations_of(Ensemble(models, [2, 1, 0]), x)[OUTPUT], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("weights", [None, [3, 1, 0]])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_mean_of_probabilities_at_a_temperature(weights, temperature):
    models, x = members(), features(5, 8)
    probabilities = [softmax(model.predict(x, verbose=0), temperature) for model in models]
    expected = np.average(probabilities, axis=0, weights=weights)
    logits = activations_of(Ensemble(models, weights, temperature), x)[OUTPUT]
    np.testing.assert_allclose(softmax(logits, temperature), expected, rtol=1e-5)


def test_the_temperature_may_be_a_schedule():
    models, x = members(), features(5, 8)
    scheduled = activations_of(Ensemble(models, temperature=Linear(2.0, 4.0, 10)), x, step=5)[OUTPUT]
    np.testing.assert_allclose(scheduled, activations_of(Ensemble(models, temperature=3.0), x)[OUTPUT], rtol=1e-5)


def test_most_confident_selects_a_member_for_each_example():
    x = np.zeros((2, 3), "float32")
    logits = {"first": [[9.0, 0, 0], [1, 0, 0]], "second": [[0, 2.0, 0], [0, 5, 0]]}
    functions = {name: lambda _, values=values: np.array(values, "float32") for name, values in logits.items()}
    np.testing.assert_allclose(activations_of(Ensemble(functions, most_confident), x)[OUTPUT], [[9, 0, 0], [0, 5, 0]])


def test_layers_of_each_member_can_be_tapped():
    models, x = members(), features(5, 8)
    ensemble = Ensemble({"small": models[0], "large": models[2]})
    activations = activations_of(ensemble, x, ("small/features", "large/features", "large/output", OUTPUT))
    assert activations["small/features"].shape == (5, 4) and activations["large/features"].shape == (5, 6)
    np.testing.assert_allclose(activations["large/output"], models[2].predict(x, verbose=0), rtol=1e-5)


def test_a_student_learns_and_the_members_do_not_change():
    models, (x, y) = members(), data()
    before = [weights_of(model) for model in models]
    terms = [Term(KLDivergence(2.0)), Term(Hint(), "features", "1/features", head="auto")]
    history = fitted(
        compiled(Distiller(student=mlp(), teacher=Ensemble(models, temperature=2.0), terms=terms)), x, y, epochs=5
    )
    assert history["kl_divergence_loss"][-1] < history["kl_divergence_loss"][0]
    for old, model in zip(before, models):
        for old_weight, new_weight in zip(old, weights_of(model)):
            np.testing.assert_array_equal(new_weight, old_weight)


def test_a_member_that_shares_weights_with_the_student_raises():
    student = mlp()
    twin = keras.Sequential([keras.Input((8,)), *student.layers], name="twin")
    with pytest.raises(ValueError, match="shares the weights"):
        Distiller(student=student, teacher=Ensemble([mlp(name="other"), twin]), terms=[Term(KLDivergence())])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ensemble(members(1)), r"two members or more.*Received: \['0'\]"),
        (
            lambda: Ensemble(members(2), [1.0]),
            r"2 numbers >= 0, one for each of the members \['0', '1'\].*Received: \[1.0\]",
        ),
        (lambda: Ensemble(members(2), [0, 0]), r"2 numbers"),
        (lambda: Ensemble(members(2), [1, -1]), "must be a finite number >= 0"),
        (lambda: Ensemble(members(2), temperature=0), "`temperature` must be a finite number > 0"),
        (
            lambda: Ensemble([mlp(), CachedTeacher({OUTPUT: features(4, 3)})]),
            r"members \['1'\] are backed by precomputed activations",
        ),
        (
            lambda: Ensemble(members(2)).connect(["features"]),
            r"\['0', '1'\], such as '0/block_3'. Rec.*features",
        ),
        (lambda: Ensemble(members(2)).connect(["2/features"]), r"Received: \['2/features'\]"),
    ],
)
def test_invalid_arguments_raise(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("temperature", [None, 2.0])
def test_a_member_that_ends_in_a_sigmoid_raises(temperature):
    probable = mlp(name="probable")
    probable.add(keras.layers.Activation("sigmoid"))
    ensemble = Ensemble({"plain": mlp(name="plain"), "probable": probable}, temperature=temperature)
    with pytest.raises(ValueError, match="Member 'probable' of the Ensemble ends in a sigmoid, but the mean at 'out"):
        Distiller(student=mlp(), teacher=ensemble, terms=[Term(KLDivergence())])
    # Its intermediate layers and logits are not averaged, so they can be tapped.
    Distiller(student=mlp(), teacher=ensemble, terms=[Term(KLDivergence(), teacher="probable/logits")])


def test_members_of_other_classes_raise():
    ensemble = Ensemble([mlp(name="first"), mlp(classes=5, name="second")])
    with pytest.raises(ValueError, match=r"same classes.*'0': \(None, 3\), '1': \(None, 5\).*classes="):
        Distiller(student=mlp(), teacher=ensemble, terms=[Term(KLDivergence())])


def test_an_ensemble_of_other_weights_is_another_teacher(tmp_path):
    models, x = members(2), data()[0]
    label(Ensemble(models, [2, 1]), x, tmp_path, verbose=0)
    open_cache(tmp_path, Ensemble(models, [4, 2]))
    for other in (Ensemble(models), Ensemble(models, most_confident), Ensemble(models, [2, 1], temperature=4.0)):
        with pytest.raises(ValueError, match="of another teacher"):
            open_cache(tmp_path, other)


@pytest.mark.parametrize("temperature", [None, 2.0])
def test_members_that_end_in_a_softmax_are_averaged_by_their_logits(temperature):
    models, x = members(), features(5, 8)
    twins = [keras.Sequential([keras.Input((8,)), model, keras.layers.Softmax()]) for model in models]
    # Logits that are read as logarithms of probabilities differ by a constant per example.
    expected, found = (
        softmax(activations_of(Ensemble(each, temperature=temperature), x)[OUTPUT], temperature or 1.0)
        for each in (models, twins)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("options", [{"temperature": 2.0}, {"weights": most_confident}])
def test_members_with_a_single_logit_raise(options):
    ensemble = Ensemble([mlp(classes=1, name="first"), mlp(classes=1, name="second")], **options)
    with pytest.raises(ValueError, match="`temperature` and `most_confident` need two classes or more"):
        activations_of(ensemble, features(5, 8))


def test_a_mean_teacher_among_the_members_is_updated_and_saved():
    student, fixed = mlp(), mlp(name="fixed")
    ema = EMATeacher(student, decay=0.0)
    distiller = Distiller(student=student, teacher=Ensemble([ema, fixed]), terms=[Term(KLDivergence())])
    fitted(compiled(distiller), *data())
    # A decay of 0 copies the student after every step.
    for copied, weight in zip(ema.model.weights, student.weights):
        np.testing.assert_allclose(copied, weight, rtol=1e-6)
    saved = [id(variable) for variable in distiller.untracked_variables().values()]
    assert {id(variable) for variable in ema.model.weights} <= set(saved)


def test_the_mask_of_a_member_is_kept():
    inputs = keras.Input((4,), dtype="int32")
    masked = keras.layers.Embedding(5, 3, mask_zero=True)(inputs)
    models = [keras.Model(inputs, keras.layers.Dense(2)(masked), name=name) for name in ("first", "second")]
    tokens = np.array([[1, 2, 0, 0]])
    average = activations_of(Ensemble(models), tokens)[OUTPUT]
    np.testing.assert_array_equal(_compat.keras_mask(average), tokens != 0)


@pytest.mark.case("E8")
@pytest.mark.parametrize(("weights", "expected"), [([1, 0], [1.0, 2.0, 3.0]), (most_confident, [2.0, 4.0, -np.inf])])
def test_a_member_without_weight_may_mask_classes(weights, expected):
    def plain(x):
        return x * [1.0, 2.0, 3.0]

    def masked(x):
        return x * [2.0, 4.0, 0.0] + [0.0, 0.0, -np.inf]

    ensemble = Ensemble([plain, masked], weights=weights)
    logits = activations_of(ensemble, np.ones((2, 3), "float32"))[OUTPUT]
    np.testing.assert_array_equal(logits, [expected] * 2)
