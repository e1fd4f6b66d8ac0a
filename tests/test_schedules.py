import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import Distiller, Term, load_distiller, losses, schedules
from keras_distill.losses import KLDivergence
from keras_distill.schedules import CosineDecay, Linear, Piecewise, StopAfter, WarmUp, check_positive, value_at
from tests.support.helpers import compiled, data, fitted, mlp


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (Linear(8.0, 2.0, 4), [8.0, 6.5, 5.0, 3.5, 2.0, 2.0]),
        (WarmUp(3.0, 3), [0.0, 1.0, 2.0, 3.0, 3.0, 3.0]),
        # Half a cosine from 4 to 0 in 4 steps: 4 * (1 + cos(pi * step / 4)) / 2.
        (CosineDecay(4.0, 0.0, 4), [4.0, 2 + np.sqrt(2), 2.0, 2 - np.sqrt(2), 0.0, 0.0]),
        (keras.optimizers.schedules.PiecewiseConstantDecay([1, 3], [1.0, 2.0, 0.0]), [1.0, 1.0, 2.0, 2.0, 0.0, 0.0]),
        (Piecewise([1, 3], [1.0, 2.0, 0.0]), [1.0, 2.0, 2.0, 0.0, 0.0, 0.0]),
        (Piecewise([], [3.0]), [3.0] * 6),
        (StopAfter(2.0, 3), [2.0, 2.0, 2.0, 0.0, 0.0, 0.0]),
        # Nested schedules are evaluated at the same step.
        (StopAfter(WarmUp(3.0, 3), 5), [0.0, 1.0, 2.0, 3.0, 3.0, 0.0]),
        (Piecewise([2], [5.0, Linear(8.0, 2.0, 4)]), [5.0, 5.0, 5.0, 3.5, 2.0, 2.0]),
        (WarmUp(StopAfter(4.0, 3), 4), [0.0, 1.0, 2.0, 0.0, 0.0, 0.0]),
    ],
)
def test_values_in_the_graph(schedule, values):
    evaluated = tf.function(lambda step: value_at(schedule, step))
    computed = [evaluated(tf.constant(step, "int64")) for step in range(6)]
    assert computed[0].dtype == "float32"
    np.testing.assert_allclose(computed, values, atol=1e-6)


@pytest.mark.parametrize(
    "schedule",
    [
        Linear(8.0, 2.0, 4),
        WarmUp(3.0, 3),
        CosineDecay(4.0, 0.0, 4),
        Piecewise([1, 3], [1.0, 2.0, 0.0]),
        Piecewise([1], [CosineDecay(4.0, 1.0, 4), StopAfter(WarmUp(3.0, 3), 5)]),
        StopAfter(keras.optimizers.schedules.PolynomialDecay(4.0, 10, 2.0), 3),
    ],
)
def test_schedules_survive_serialization(schedule):
    restored = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert type(restored) is type(schedule)
    assert keras.saving.serialize_keras_object(restored) == keras.saving.serialize_keras_object(schedule)
    assert [float(restored(step)) for step in range(6)] == [float(schedule(step)) for step in range(6)]


def test_a_term_stops_after_its_steps_and_resumes(tmp_path):
    (x, y), teacher = data(), mlp(16, name="teacher")
    weight = StopAfter(WarmUp(1.0, 2), 4)
    first = compiled(Distiller(student=mlp(), teacher=teacher, terms=[Term(KLDivergence(), weight=weight)]))
    fitted(first, x, y)
    first.save(tmp_path / "d.keras")
    second = load_distiller(tmp_path / "d.keras", teacher)
    history = fitted(first, x, y, epochs=2)
    assert fitted(second, x, y, epochs=2) == history
    # Step 3 still includes the term; steps 4 to 8 have the supervised loss only.
    assert history["loss"][0] > history["supervised_loss"][0] * (1 + 1e-3)
    np.testing.assert_allclose(history["loss"][1], history["supervised_loss"][1], rtol=1e-6)


def test_numbers_become_python_floats():
    assert value_at(3.0, 10) == 3.0
    assert check_positive(np.float32(2), "weight") == 2.0 and type(check_positive(2, "weight")) is float
    assert check_positive(0, "weight", zero=True) == 0.0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, 0, True, "1", None, [1.0]])
def test_invalid_numbers_raise(value):
    with pytest.raises(ValueError, match="`beta` must be a finite number > 0 or a schedule. Received: "):
        check_positive(value, "beta")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Piecewise([3, 3], [1.0, 2.0, 0.0]), r"`boundaries` must be in ascending order. Received: \[3, 3\]"),
        (
            lambda: Piecewise([3], [1.0]),
            "`values` must have one entry more than `boundaries`. Received: 1 values, 1 bound",
        ),
        (lambda: Piecewise([0], [1.0, 2.0]), "`boundaries` must be a finite number > 0. Received: 0"),
        (lambda: Piecewise([1], [1.0, -2.0]), "`values` must be a finite number >= 0 or a schedule"),
        (lambda: StopAfter(1.0, WarmUp(1.0, 2)), "`steps` must be a finite number > 0. Received: "),
        (lambda: StopAfter("1", 2), "`value` must be a finite number"),
        (lambda: Linear(1.0, 2.0, 0), "`steps` must be a finite number > 0. Received: 0"),
    ],
)
def test_invalid_arguments_raise(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.case("C4")
def test_no_loss_has_the_name_of_a_schedule():
    def classes(module):
        return {name for name in module.__all__ if inspect.isclass(getattr(module, name))}

    assert not classes(losses) & {name for name, value in vars(schedules).items() if inspect.isclass(value)}
    KLDivergence(CosineDecay(8.0, 1.0, steps=5000))
    with pytest.raises((TypeError, ValueError)):
        losses.CosineSimilarity(8.0, 1.0, steps=5000)
