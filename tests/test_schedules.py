import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill.schedules import Cosine, Linear, WarmUp, positive, value_at


@pytest.mark.parametrize(
    "schedule, values",
    [
        (Linear(8.0, 2.0, 4), [8.0, 6.5, 5.0, 3.5, 2.0, 2.0]),
        (WarmUp(3.0, 3), [0.0, 1.0, 2.0, 3.0, 3.0, 3.0]),
        # Half a cosine from 4 to 0 in 4 steps: 4 * (1 + cos(pi * step / 4)) / 2.
        (Cosine(4.0, 0.0, 4), [4.0, 2 + np.sqrt(2), 2.0, 2 - np.sqrt(2), 0.0, 0.0]),
        (keras.optimizers.schedules.PiecewiseConstantDecay([1, 3], [1.0, 2.0, 0.0]), [1.0, 1.0, 2.0, 2.0, 0.0, 0.0]),
    ],
)
def test_values_in_the_graph(schedule, values):
    evaluated = tf.function(lambda step: value_at(schedule, step))
    computed = [evaluated(tf.constant(step, "int64")) for step in range(6)]
    assert computed[0].dtype == "float32"
    np.testing.assert_allclose(computed, values, atol=1e-6)


@pytest.mark.parametrize("schedule", [Linear(8.0, 2.0, 4), WarmUp(3.0, 3), Cosine(4.0, 0.0, 4)])
def test_schedules_are_written_and_revived(schedule):
    revived = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert type(revived) is type(schedule) and revived.get_config() == schedule.get_config()
    assert float(revived(2)) == float(schedule(2))


def test_numbers_stay_numbers():
    assert value_at(3.0, 10) == 3.0
    assert positive(np.float32(2), "weight") == 2.0 and type(positive(2, "weight")) is float
    assert positive(0, "weight", zero=True) == 0.0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, 0, True, "1", None, [1.0]])
def test_errors_name_the_number(value):
    with pytest.raises(ValueError, match="`beta` must be a finite number above 0, or a schedule. Received: "):
        positive(value, "beta")
