"""Reasons of failures, as the command line prints them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill.cli.common import CommandError, as_command_error
from tests.support.helpers import crossentropy, data, mlp


def reason(function):
    with pytest.raises(CommandError) as error, as_command_error("cannot try"):
        function()
    return str(error.value)


@pytest.mark.case("E11")
@pytest.mark.parametrize("run_eagerly", [False, True])
def test_the_cause_of_a_failure_in_a_graph_remains(run_eagerly):
    x, y = data()
    model = mlp()
    model.compile("sgd", crossentropy(), run_eagerly=run_eagerly)
    printed = reason(lambda: model.fit(x, y + 7, verbose=0))
    assert printed.startswith("cannot try: Received a label value of 9 which is outside the valid range of [0, 3).")
    assert "Label values:" in printed and "[[" not in printed and "File " not in printed


@pytest.mark.case("E11")
def test_the_remedy_after_an_operation_remains():
    def fail(value):
        raise ValueError(f"Value {value} of [Op:Mine] is wrong. Do this.\nThen that.")

    dataset = tf.data.Dataset.range(3).map(lambda x: tf.numpy_function(fail, [x], tf.int64))
    printed = reason(lambda: list(dataset))
    assert printed == "cannot try: ValueError: Value 0 of is wrong. Do this.\nThen that."


def test_other_errors():
    assert reason(lambda: {}["x"]) == "cannot try: missing entry 'x'"
    assert reason(lambda: keras.ops.reshape(np.zeros(3), (2, 2))) != "cannot try: "
    assert reason(lambda: np.zeros(3)[7]) == "cannot try: index 7 is out of bounds for axis 0 with size 3"
