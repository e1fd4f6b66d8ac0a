"""Contract of all losses and heads: one test suite over every file of the two folders.

One file, because all tests use the same lists of losses and heads and the same inputs for them.
"""

import importlib
import inspect
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import heads, losses
from keras_distill.data.batch import Batch
from keras_distill.models.specs import Spec
from keras_distill.training.term import Term
from tests.support.helpers import features, value_and_gradient

BATCH = 6
SHAPES = {2: (BATCH, 5), 3: (BATCH, 4, 5), 4: (BATCH, 4, 3, 5)}
# A head can change the resolution of feature maps only. Here one axis grows and the other shrinks.
TEACHER_SHAPES = {**SHAPES, 4: (BATCH, 2, 6, 5)}
# The adapter wraps any Keras loss. `test_adapter.py` tests it.
# `chunked_crossentropy` is a supervised loss.
# `standardization` is a layer for both sides.
NOT_LEAVES = {
    "__init__",
    "adapter",
    "base",
    "checks",
    "chunked_crossentropy",
    "class_masks",
    "distributions",
    "maths",
    "softened",
    "standardization",
}
# Arguments that cannot be schedules.
FIXED = {
    # The formula changes at 0 and 1.
    ("HybridLogitDistillation", "beta"),
    ("JensenShannon", "beta"),
    # Fractions, of a mixture and of a probability.
    ("AdaptiveKL", "mu"),
    ("SkewKL", "skew"),
    ("SkewReverseKL", "skew"),
    # Read before the first step.
    ("MarginReLU", "beta"),
    ("MarginReLU", "gamma"),
    ("VariationalInformation", "variance"),
}
# ActivationBoundary has a margin beyond the teacher's values, CenteredKL two temperatures; InteractiveContrastive
# compares with other examples; KoLeo does not read the teacher; the other two compare through their own weights.
NOT_ZERO_AT_THE_TEACHER = {
    "ActivationBoundary",
    "CenteredKL",
    "ContrastiveRepresentation",
    "InteractiveContrastive",
    "KoLeo",
    "VariationalInformation",
}
# The pooling grid covers the padded feature map.
GRID = {"HierarchicalContext"}


def leaves(folder, base):
    """Return the class of each file in the folder that is derived from the base."""
    files = sorted(p.stem for p in pathlib.Path(folder.__file__).parent.glob("*.py") if p.stem not in NOT_LEAVES)
    modules = [importlib.import_module(f"{folder.__name__}.{name}") for name in files]
    return [
        cls
        for module in modules
        for _, cls in inspect.getmembers(module, inspect.isclass)
        if issubclass(cls, base) and cls.__module__ == module.__name__
    ]


def accepts(cls, rank):
    shape = (None, *SHAPES[rank][1:])
    if getattr(cls, "rank", None) not in (None, rank):
        return False
    try:
        cls().build(shape, shape)
    except ValueError:
        return False
    return True


def with_ranks(classes):
    return [pytest.param(cls, r, id=f"{cls.__name__}-{r}") for cls in classes for r in SHAPES if accepts(cls, r)]


LOSSES = leaves(losses, losses.DistillationLoss)
HEADS = leaves(heads, heads.Head)
every_loss = pytest.mark.parametrize(("cls", "rank"), with_ranks(LOSSES))
every_head = pytest.mark.parametrize(("cls", "rank"), with_ranks(HEADS))


def pair(rank):
    return features(*SHAPES[rank]), features(*SHAPES[rank], seed=1)


def labels_of(student):
    """Return class indices for each example, or for each position."""
    axes = np.indices(student.shape[:-1])
    return sum((2 + axis) * index for axis, index in enumerate(axes)) % student.shape[-1]


def compare(loss, student, teacher, labels=None, **batch):
    labels = labels_of(student) if labels is None else labels
    if not loss.built:
        keras.utils.set_random_seed(0)
        loss.build(*((None, *x.shape[1:]) for x in (student, teacher)))
    return loss.compare(student, teacher, Batch(None, labels, **batch))


@pytest.mark.parametrize(("folder", "base"), [(losses, losses.DistillationLoss), (heads, heads.Head)])
def test_every_file_has_a_leaf_that_its_folder_exports(folder, base):
    files = {p.stem for p in pathlib.Path(folder.__file__).parent.glob("*.py")} - NOT_LEAVES
    classes = leaves(folder, base)
    assert {cls.__module__.rsplit(".", 1)[1] for cls in classes} == files
    for cls in classes:
        assert getattr(folder, cls.__name__, None) is cls, f"{folder.__name__} must import {cls.__name__}"
        (parent,) = cls.__bases__
        assert parent.__module__ == base.__module__, f"{cls.__name__} must not derive from another leaf"


@pytest.mark.parametrize("cls", [*LOSSES, *HEADS])
def test_every_leaf_has_defaults_and_accepts_a_rank(cls):
    assert any(accepts(cls, rank) for rank in SHAPES)


@pytest.mark.parametrize("cls", [*LOSSES, *HEADS])
def test_computes_in_float32_under_any_policy(cls):
    policy = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy("mixed_float16")
        assert cls().compute_dtype == "float32"
    finally:
        keras.config.set_dtype_policy(policy)


@every_loss
def test_returns_one_non_negative_float32_per_example(cls, rank):
    result = compare(cls(), *pair(rank))
    assert result.shape == (BATCH,)
    assert result.dtype == tf.float32
    assert np.all(result >= 0) and np.all(np.isfinite(result)) and np.any(result > 0)


@pytest.mark.parametrize(
    ("cls", "rank"), [p for p in with_ranks(LOSSES) if p.values[0].__name__ not in NOT_ZERO_AT_THE_TEACHER]
)
def test_loss_and_gradient_are_zero_at_the_teacher(cls, rank):
    student, _ = pair(rank)
    value, gradient = value_and_gradient(lambda s: compare(cls(), s, student), student)
    assert value == 0
    np.testing.assert_allclose(gradient, 0, atol=1e-7)


@every_loss
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_computed_as_float32(cls, rank, dtype):
    student, teacher = (tf.cast(x, dtype) for x in pair(rank))
    value, gradient = value_and_gradient(lambda s: compare(cls(), s, teacher), student)
    exact, _ = value_and_gradient(lambda s: compare(cls(), s, tf.cast(teacher, "float32")), tf.cast(student, "float32"))
    assert value.dtype == np.float32
    np.testing.assert_allclose(value, exact, rtol=1e-6)
    assert np.isfinite(gradient.astype("float32")).all() and np.any(gradient)


@every_loss
@pytest.mark.parametrize("case", ["zeros", "zero teacher", "one row", "equal rows", "large"])
def test_gradients_stay_finite(cls, rank, case):
    student, teacher = pair(rank)
    student, teacher = {
        "zeros": (0 * student, teacher),
        "zero teacher": (student, 0 * teacher),
        "one row": (student[:1], teacher[:1]),
        "equal rows": (np.repeat(student[:1], BATCH, axis=0), teacher),
        "large": (1e4 * student, -1e4 * teacher),
    }[case]
    value, gradient = value_and_gradient(lambda s: compare(cls(), s, teacher), student)
    assert np.isfinite(value) and np.isfinite(gradient).all()


# Compilation takes seconds. Tokens are left out where a loss accepts feature maps, which take the same code path.
@pytest.mark.parametrize(
    ("cls", "rank"), [p for p in with_ranks(LOSSES) if p.values[1] != 3 or not accepts(p.values[0], 4)]
)
def test_xla_with_unknown_batch_size_matches_eager_mode(cls, rank):
    student, teacher = pair(rank)
    loss = cls()
    eager = compare(loss, student, teacher), value_and_gradient(lambda s: compare(loss, s, teacher), student)[1]

    def step(student, teacher, labels):
        with tf.GradientTape() as tape:
            tape.watch(student)
            values = compare(loss, student, teacher, labels=labels)
            mean = tf.reduce_mean(values)
        return values, tape.gradient(mean, student)

    spec = tf.TensorSpec((None, *SHAPES[rank][1:]))
    compiled = tf.function(
        step, jit_compile=True, input_signature=[spec, spec, tf.TensorSpec(spec.shape[:-1], tf.int64)]
    )
    value, gradient = compiled(student, teacher, labels_of(student))
    np.testing.assert_allclose(value, eager[0], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(gradient, eager[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("cls", [cls for cls in LOSSES if cls.logits])
def test_pointwise_losses_compare_rows_independently(cls):
    loss, (student, teacher) = cls(), pair(2)
    together = np.asarray(compare(loss, student, teacher))
    one_by_one = [
        float(compare(loss, student[i : i + 1], teacher[i : i + 1], labels=labels_of(student)[i : i + 1])[0])
        for i in range(BATCH)
    ]
    equal = np.allclose(together, one_by_one, rtol=1e-5)
    assert loss.pointwise == (equal and not loss.weights), f"Set {cls.__name__}.pointwise."


@pytest.mark.parametrize("cls", LOSSES)
def test_only_relational_losses_depend_on_other_examples(cls):
    equal = []
    for rank in filter(lambda rank: accepts(cls, rank), SHAPES):
        loss, (student, teacher) = cls(), pair(rank)
        # Two examples that are not the nearest neighbors of one another.
        together = np.asarray(compare(loss, student, teacher))[::3]
        separate = compare(loss, student[::3], teacher[::3], labels=labels_of(student)[::3])
        equal.append(np.allclose(together, separate, rtol=1e-5, atol=1e-7))
    assert cls().relational == (not all(equal)), f"Set {cls.__name__}.relational."


@every_loss
def test_results_follow_the_order_of_the_batch(cls, rank):
    student, teacher = pair(rank)
    order = np.array([3, 0, 5, 1, 4, 2])
    np.testing.assert_allclose(
        compare(cls(), student[order], teacher[order], labels=labels_of(student)[order]),
        np.asarray(compare(cls(), student, teacher))[order],
        rtol=1e-5,
    )


@pytest.mark.parametrize(
    ("cls", "rank"), [p for p in with_ranks(LOSSES) if p.values[1] > 2 and p.values[0].__name__ not in GRID]
)
def test_padded_positions_equal_absent_positions(cls, rank):
    student, teacher = pair(rank)
    weight = np.array([[1.0, 1.0, 1.0, 0.0]] * BATCH, "float32")
    padded = [x * weight.reshape(*weight.shape, *[1] * (rank - 2)) for x in (student, teacher)]
    np.testing.assert_allclose(
        compare(cls(), *padded, position_weight=weight), compare(cls(), student[:, :3], teacher[:, :3]), rtol=1e-5
    )


@every_loss
def test_sample_weights_scale_each_example(cls, rank):
    student, teacher = pair(rank)
    weight = np.array([1.0, 0.0, 2.0, 0.5, 3.0, 1.0], "float32")
    spec = Spec((None, *student.shape[1:]), "float32", "")
    keras.utils.set_random_seed(0)
    term = Term(cls(), name="term").build(spec, spec)
    plain, weighted = (
        term.compare(student, teacher, Batch(None, labels_of(student), sample_weight))
        for sample_weight in (None, weight)
    )
    np.testing.assert_allclose(weighted, weight * plain, rtol=1e-6)


def changed_settings(cls):
    """Return a changed value for each argument whose default is a number or a bool."""
    defaults = {key: parameter.default for key, parameter in inspect.signature(cls).parameters.items()}
    change = {bool: lambda value: not value, int: lambda value: value + 1, float: lambda value: value / 2}
    return {key: change[type(value)](value) for key, value in defaults.items() if type(value) in change}


def schedulable(cls):
    settings = changed_settings(cls)
    return [key for key, value in settings.items() if type(value) is float and (cls.__name__, key) not in FIXED]


@every_loss
def test_config_survives_saving(cls, rank):
    settings = changed_settings(cls)
    loss = cls(**settings, name="mine")
    revived = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert type(revived) is cls
    assert {key: revived.get_config()[key] for key in [*settings, "name"]} == {**settings, "name": "mine"}
    np.testing.assert_array_equal(compare(revived, *pair(rank)), compare(loss, *pair(rank)))


@pytest.mark.parametrize(
    ("cls", "key"), [pytest.param(c, k, id=f"{c.__name__}-{k}") for c in LOSSES for k in schedulable(c)]
)
def test_a_schedule_survives_saving_and_follows_the_step(cls, key):
    # A momentum is a fraction.
    scale = 0.1 if key == "momentum" else 1.0
    loss = cls(**{key: keras.optimizers.schedules.PolynomialDecay(4.0 * scale, 10, 2.0 * scale)})
    revived = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    rank = next(rank for rank in SHAPES if accepts(cls, rank))
    for step, value in ((0, 4.0), (5, 3.0), (10, 2.0)):
        fixed = cls(**{key: value * scale})
        found = compare(revived, *pair(rank), step=tf.constant(step))
        np.testing.assert_allclose(found, compare(fixed, *pair(rank)), rtol=1e-5)


@pytest.mark.parametrize("cls", LOSSES)
def test_accepted_shapes_are_comparable(cls):
    shapes = [(None, *SHAPES[rank][1:]) for rank in SHAPES if accepts(cls, rank)]
    assert all(cls().comparable(shape, shape) for shape in shapes)


@every_head
def test_head_returns_the_teachers_shape_and_survives_saving(cls, rank):
    settings = changed_settings(cls)
    student, head = features(*SHAPES[rank]), cls(**settings)
    head.build((None, *student.shape[1:]), (None, *TEACHER_SHAPES[rank][1:]))
    output = head(student)
    assert output.shape == TEACHER_SHAPES[rank]
    symbolic = head.compute_output_spec(keras.KerasTensor((None, *student.shape[1:])))
    assert symbolic.shape == (None, *TEACHER_SHAPES[rank][1:])

    revived = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(head))
    assert {key: revived.get_config()[key] for key in settings} == settings
    revived.set_weights(head.get_weights())
    np.testing.assert_array_equal(revived(student), output)


@every_head
def test_head_under_xla_matches_eager_mode(cls, rank):
    student, head = features(*SHAPES[rank]), cls()
    head.build((None, *student.shape[1:]), (None, *TEACHER_SHAPES[rank][1:]))

    def step(student):
        with tf.GradientTape() as tape:
            tape.watch(student)
            output = head(student)
            mean = tf.reduce_mean(tf.square(output))
        return [output, *tape.gradient(mean, [student, *head.trainable_weights])]

    student = tf.constant(student)
    for compiled, eager in zip(tf.function(step, jit_compile=True)(student), step(student), strict=True):
        np.testing.assert_allclose(compiled, eager, rtol=1e-4, atol=1e-6)
