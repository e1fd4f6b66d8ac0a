"""Training on several replicas makes the same updates as on one device."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import Balance, Distiller, MutualDistiller, Term
from keras_distill.cache import indexed, label, open_cache
from keras_distill.losses import Hint, KLDivergence, SimilarityPreserving
from keras_distill.teachers import EMATeacher, Ensemble
from tests.support.cluster import finish, start
from tests.support.loss_models import CLASSES
from tests.support.replica_comparison import (
    BATCH,
    EXAMPLES,
    assert_same_on_replicas,
    from_logits,
    sgd,
    strategy,
    trained,
)

pytestmark = [pytest.mark.replicas, pytest.mark.processes]


def dense(name, **options):
    """Return a dense network from 8 features to logits. Unlike convolutions on a CPU, it accepts an empty batch."""
    inputs = keras.Input((8,))
    x = keras.layers.Dense(6, activation="tanh", name="features", **options)(inputs)
    return keras.Model(inputs, keras.layers.Dense(CLASSES, name="logits")(x), name=name)


def numbers(count=EXAMPLES):
    random = np.random.default_rng(0)
    return random.normal(size=(count, 8)).astype("float32"), random.integers(0, CLASSES, count)


def both(**options):
    """Return a distiller with a term of the logits, and a term that compares all examples of the batch."""
    terms = [Term(KLDivergence()), Term(SimilarityPreserving(), "features", "features")]
    return Distiller(
        student=dense("student", **options.pop("student", {})), teacher=dense("teacher"), terms=terms, **options
    )


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


def tokens(name):
    inputs = keras.Input((5,), dtype="int32")
    x = keras.layers.Embedding(20, 6, mask_zero=True)(inputs)
    x = keras.layers.Dense(6, name="features")(x)
    return keras.Model(inputs, keras.layers.Dense(CLASSES, name="logits")(x), name=name)


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


def test_steps_per_execution():
    assert_same_on_replicas(both, numbers(), loss=from_logits, steps_per_execution=2)


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


def raises(*parts):
    """Expect a ValueError whose message contains the parts in this order."""
    return pytest.raises(ValueError, match=".*".join(parts))


def test_models_of_another_strategy_raise():
    with strategy(2).scope():
        inside = dense("student")
        teacher = dense("teacher")
    outside = dense("outside")
    with raises("student 'student' was made under MirroredStrategy of 2 replicas, the distiller under no", "scope"):
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
    with raises("steps_per_execution=4", "MirroredStrategy of 2 replicas", "HierarchicalCopyAllReduce"):
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
    assert "error: Keras 3 does not train under ParameterServerStrategy. Use MirroredStrategy" in printed, printed


def test_batches_smaller_than_the_number_of_replicas_raise():
    with strategy(4).scope():
        model = both()
        model.compile(sgd(), from_logits)
    with raises("holds 3 examples for the 4 replicas", "batch_size"):
        model.fit(*numbers(), batch_size=3, verbose=0)
    # Validation and evaluation accept small batches.
    model.fit(*numbers(), batch_size=6, validation_data=numbers(3), verbose=0)
    assert np.isfinite(model.evaluate(*numbers(3), verbose=0, return_dict=True)["loss"])


def test_compile_outside_the_scope():
    with strategy(2).scope():
        model = both()
    model.compile("adam", from_logits, metrics=["accuracy"])
    history = model.fit(*numbers(), batch_size=6, epochs=2, verbose=0).history
    assert history["loss"][1] < history["loss"][0]
