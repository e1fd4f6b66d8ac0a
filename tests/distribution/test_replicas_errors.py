"""Errors for models, options and batches that several replicas cannot train."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import Distiller, MutualDistiller, Term
from keras_distill.losses import KLDivergence
from tests.support.cluster import finish, start
from tests.support.replica_comparison import from_logits, sgd, strategy
from tests.support.replica_models import both, dense, numbers

pytestmark = [pytest.mark.replicas, pytest.mark.processes]


def raises(*parts):
    """Expect a ValueError whose message contains the parts in this order."""
    return pytest.raises(ValueError, match=".*".join(parts))


def test_models_of_another_strategy_raise():
    with strategy(2).scope():
        inside = dense("student")
        teacher = dense("teacher")
    outside = dense("outside")
    with raises("student 'student' was made under MirroredStrategy with 2 replicas, the distiller under no", "scope"):
        Distiller(student=inside, teacher=teacher, terms=[Term(KLDivergence())])
    with strategy(2).scope():
        with raises("student 'outside' was made under no strategy", "distiller under MirroredStrategy"):
            Distiller(student=outside, teacher=teacher, terms=[Term(KLDivergence())])
        with raises("teacher was made under no strategy"):
            Distiller(student=inside, teacher=outside, terms=[Term(KLDivergence())])
        with raises("peer 'peer_1' was made under no strategy"):
            MutualDistiller([inside, outside])


def test_unsupported_options_raise():
    elsewhere = keras.optimizers.Adam()
    with strategy(2).scope():
        model = both()
        for options, message in (
            ({"jit_compile": True}, "jit_compile"),
            ({"optimizer": elsewhere}, "'adam' was made outside"),
            ({"optimizer": sgd(use_ema=True, ema_overwrite_frequency=2)}, "SwapEMAWeights"),
            ({"optimizer": sgd(use_ema=True, gradient_accumulation_steps=2)}, "use_ema"),
            (
                {"optimizer": keras.optimizers.LossScaleOptimizer(sgd(gradient_accumulation_steps=2))},
                "LossScaleOptimizer",
            ),
        ):
            with raises(message):
                model.compile(**options)


def test_steps_per_execution_with_collective_operations_raises():
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        model = both()
    with raises("steps_per_execution=4", "MirroredStrategy with 2 replicas", "HierarchicalCopyAllReduce"):
        model.compile(sgd(), from_logits, steps_per_execution=4)


PARAMETER_SERVER = """
import keras, tensorflow as tf
from tests.support.cluster import free_ports
from keras_distill import Distiller, Term
from keras_distill.losses import KLDivergence

ps, worker, chief = (f"127.0.0.1:{port}" for port in free_ports(3))
jobs = tf.train.ClusterSpec({"ps": [ps], "worker": [worker], "chief": [chief]})
servers = [tf.distribute.Server(jobs, name, 0, protocol="grpc") for name in ("ps", "worker")]
resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(jobs, rpc_layer="grpc", task_type="chief", task_id=0)
with tf.distribute.ParameterServerStrategy(resolver).scope():
    try:
        student, teacher = (keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)]) for _ in range(2))
        Distiller(student=student, teacher=teacher, terms=[Term(KLDivergence())])
    except ValueError as error:
        print("error:", error)
"""


def test_parameter_servers_raise():
    [(code, printed)] = finish(start(["-c", PARAMETER_SERVER]), deadline=120)
    assert "error: Keras 3 does not support ParameterServerStrategy. Use MirroredStrategy" in printed, printed


def test_batches_smaller_than_the_number_of_replicas_raise():
    with strategy(4).scope():
        model = both()
        model.compile(sgd(), from_logits)
    with raises("has 3 examples for the 4 replicas", "batch_size"):
        model.fit(*numbers(), batch_size=3, verbose=0)
    # Validation and evaluation accept small batches.
    model.fit(*numbers(), batch_size=6, validation_data=numbers(3), verbose=0)
    assert np.isfinite(model.evaluate(*numbers(3), verbose=0, return_dict=True)["loss"])
