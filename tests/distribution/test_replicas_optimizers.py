"""Every optimizer option makes the same updates on several replicas as on one device."""

import keras
import numpy as np
import pytest

from keras_distill import Distiller, Term
from keras_distill.losses import KLDivergence
from tests.support.loss_models import CLASSES
from tests.support.replica_comparison import EXAMPLES, assert_same_on_replicas, from_logits, sgd, strategy, trained
from tests.support.replica_models import both, dense, numbers, tokens

pytestmark = [pytest.mark.replicas, pytest.mark.processes]

OPTIMIZERS = {
    # Limits that clip most steps of these networks.
    "clipnorm": lambda: sgd(clipnorm=0.05),
    "global_clipnorm": lambda: sgd(global_clipnorm=0.1),
    "clipvalue": lambda: sgd(clipvalue=0.02),
    "accumulation": lambda: sgd(gradient_accumulation_steps=2),
    "accumulation_and_clipping": lambda: sgd(gradient_accumulation_steps=2, global_clipnorm=0.05),
    "accumulation_and_scale": lambda: sgd(gradient_accumulation_steps=2, loss_scale_factor=4.0),
    "momentum": lambda: sgd(momentum=0.9, nesterov=True),
    "schedule": lambda: keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.05, 5)),
    "weight_decay": lambda: sgd(weight_decay=0.1),
    "average": lambda: sgd(use_ema=True),
    "loss_scale": lambda: keras.optimizers.LossScaleOptimizer(sgd(clipnorm=0.05), initial_scale=64.0),
}


@pytest.fixture(scope="module")
def plain_sgd():
    """Weights after training with plain SGD."""
    return trained(1, both, numbers(), loss=from_logits)[0]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(name, plain_sgd):
    weights = assert_same_on_replicas(both, numbers(), loss=from_logits, optimizer=OPTIMIZERS[name])
    # The option must have an effect.
    assert max(np.abs(weight - plain).max() for weight, plain in zip(weights, plain_sgd, strict=True)) > 1e-3


@pytest.mark.parametrize("name", ["clipnorm", "accumulation"])
def test_constraints(name, plain_sgd):
    options = {"kernel_constraint": keras.constraints.MaxNorm(0.5)}
    weights = assert_same_on_replicas(
        lambda: both(student=options), numbers(), loss=from_logits, optimizer=OPTIMIZERS[name]
    )
    longest, free = (np.linalg.norm(kernel, axis=0).max() for kernel in (weights[0], plain_sgd[0]))
    assert longest <= 0.5 + 1e-6 < free


@pytest.mark.parametrize("name", ["clipnorm", "accumulation"])
def test_layers_without_a_gradient(name):
    def make():
        inputs = keras.Input((8,))
        outputs = {"logits": keras.layers.Dense(CLASSES)(inputs), "unused": keras.layers.Dense(3)(inputs)}
        return Distiller(
            student=keras.Model(inputs, outputs),
            teacher=dense("teacher"),
            terms=[Term(KLDivergence(), "output[logits]")],
        )

    assert_same_on_replicas(make, (numbers()[0],), loss=None, optimizer=OPTIMIZERS[name])


def test_clipped_embeddings():
    random = np.random.default_rng(0)
    data = random.integers(1, 20, (EXAMPLES, 5)), random.integers(0, CLASSES, (EXAMPLES, 5))

    def make():
        return Distiller(student=tokens("student"), teacher=tokens("teacher"), terms=[Term(KLDivergence())])

    assert_same_on_replicas(make, data, loss=from_logits, optimizer=OPTIMIZERS["clipnorm"])


def test_an_overflow_on_any_replica_skips_the_step_on_all():
    x, y = numbers(4)
    with strategy(2).scope():
        keras.utils.set_random_seed(0)
        model = both()
        model.compile(keras.optimizers.LossScaleOptimizer(sgd(), initial_scale=64.0), from_logits)
        before = [np.array(weight) for weight in model.student.weights]
        # Only the second replica overflows.
        sample_weight = np.array([1, 1, 1, 3e38], "float32")
        model.fit(x, y, sample_weight=sample_weight, batch_size=4, shuffle=False, verbose=0)
        scale = np.array(model.optimizer.dynamic_scale)
    assert scale == 32
    for weight, old in zip(model.student.weights, before, strict=True):
        np.testing.assert_array_equal(weight, old)


@pytest.mark.parametrize(("policy", "tolerance"), [("mixed_bfloat16", 2e-3), ("mixed_float16", 3e-4)])
def test_mixed_precision(policy, tolerance):
    """Equal up to the rounding of half-precision sums, which depends on their order."""

    def make():
        return Distiller(student=dense("student", dtype=policy), teacher=dense("teacher"), terms=[Term(KLDivergence())])

    assert_same_on_replicas(make, numbers(), tolerance, loss=from_logits)
