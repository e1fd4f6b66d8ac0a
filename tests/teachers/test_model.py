import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import OUTPUT, Distiller, Term
from keras_distill.cache import label, open_cache
from keras_distill.data.batch import Batch, split_inputs
from keras_distill.losses import Hint, KLDivergence
from keras_distill.teachers import Ensemble, ModelTeacher
from keras_distill.teachers.checks import map_logits
from tests.support.helpers import (
    assert_same_weights,
    compiled,
    data,
    features,
    fitted,
    mlp,
    softened_kl,
    softmax,
    weights_of,
)

GROUPS = [[4, 0], 2, [1, 5, 6]]


def wide_teacher(**options):
    return mlp(16, classes=7, name="teacher", **options)


def activations_of(teacher, x, taps=(OUTPUT,)):
    teacher.connect(list(taps))
    return teacher.activations(Batch(x))


def merged(probabilities, groups):
    """Return the probabilities of the student's classes in float64: sums over groups, scaled to sum 1."""
    sums = np.stack([probabilities[..., np.atleast_1d(group)].sum(axis=-1) for group in groups], axis=-1)
    return sums / sums.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("groups", [GROUPS, [6, 0, 3], [[0, 1, 2], [3, 4, 5, 6]], np.array([1, 2]), range(7)])
def test_classes_add_up_in_probability(groups):
    teacher, x = wide_teacher(), features(5, 8, scale=10.0)
    logits = activations_of(ModelTeacher(teacher, classes=groups), x)[OUTPUT]
    expected = merged(softmax(teacher.predict(x, verbose=0)), groups)
    np.testing.assert_allclose(softmax(logits), expected, rtol=2e-5)


def test_a_single_teacher_class_keeps_its_logit():
    teacher, x = wide_teacher(), features(5, 8)
    logits = activations_of(ModelTeacher(teacher, classes=[6, [0], 3]), x)[OUTPUT]
    np.testing.assert_array_equal(logits, teacher.predict(x, verbose=0)[:, [6, 0, 3]])


def test_sums_are_not_exact_at_another_temperature():
    logits = np.array([[3.0, 1.0, 0.0]])
    activations = activations_of(ModelTeacher(lambda _: tf.constant(logits), classes=[[0, 1], 2]), logits)[OUTPUT]
    np.testing.assert_allclose(softmax(activations), merged(softmax(logits), [[0, 1], 2]), rtol=1e-6)
    assert np.abs(softmax(activations, 4.0) - merged(softmax(logits, 4.0), [[0, 1], 2])).max() > 0.05


def test_intermediate_layers_are_not_mapped():
    teacher, x = wide_teacher(), features(5, 8)
    activations = activations_of(ModelTeacher(teacher, classes=GROUPS), x, ("features", "logits", OUTPUT))
    assert [activations[tap].shape for tap in ("features", "logits", OUTPUT)] == [(5, 16), (5, 7), (5, 3)]


def test_one_output_of_several_is_mapped():
    inputs = keras.Input((8,))
    outputs = {"topic": keras.layers.Dense(7)(inputs), "tone": keras.layers.Dense(9)(inputs)}
    teacher, x = keras.Model(inputs, outputs, name="teacher"), features(5, 8)
    activations = activations_of(ModelTeacher(teacher, classes=GROUPS), x, ("output[topic]",))["output[topic]"]
    np.testing.assert_allclose(softmax(activations), merged(softmax(teacher(x)["topic"]), GROUPS), rtol=1e-5)
    with pytest.raises(ValueError, match=r"structure with the entries \['tone', 'topic'\]|\['topic', 'tone'\]"):
        Distiller(student=mlp(), teacher=ModelTeacher(teacher, classes=GROUPS), terms=[Term(KLDivergence())])


def test_padded_tokens_are_excluded():
    def model(classes, name):
        embedding = keras.layers.Embedding(9, 4, mask_zero=name == "teacher")
        return keras.Sequential([keras.Input((3,), dtype="int32"), embedding, keras.layers.Dense(classes)], name=name)

    x, student, teacher = np.array([[1, 2, 0], [3, 0, 0]]), model(3, "student"), model(7, "teacher")
    distiller = compiled(
        Distiller(student=student, teacher=ModelTeacher(teacher, classes=GROUPS), terms=[Term(KLDivergence(1.0))])
    )
    logged = distiller.evaluate(x, np.zeros((2, 3), "int32"), verbose=0, return_dict=True)["kl_divergence_loss"]
    target = np.log(merged(softmax(teacher.predict(x, verbose=0)), GROUPS))
    kl = softened_kl(student.predict(x, verbose=0), target, 1.0)
    np.testing.assert_allclose(logged, (kl[0, :2].mean() + kl[1, 0]) / 2, rtol=1e-5)


@pytest.mark.parametrize("options", [{}, {"jit_compile": True}, {"run_eagerly": True}], ids=str)
def test_distills_from_a_teacher_of_other_classes(options):
    (x, y), student, teacher = data(), mlp(), wide_teacher()
    distiller = Distiller(
        student=student, teacher=ModelTeacher(teacher, classes=GROUPS), terms=[Term(KLDivergence(1.0))]
    )
    kl = softened_kl(student.predict(x, verbose=0), np.log(merged(softmax(teacher.predict(x, verbose=0)), GROUPS)), 1.0)
    history = fitted(compiled(distiller, keras.optimizers.SGD(0.0), **options), x, y)
    np.testing.assert_allclose(history["kl_divergence_loss"], [kl.mean()], rtol=1e-5)


def test_members_of_other_classes_join_an_ensemble():
    teacher, other, x = wide_teacher(), mlp(name="other"), features(5, 8)
    activations = activations_of(Ensemble([ModelTeacher(teacher, classes=GROUPS), other], temperature=1.0), x)[OUTPUT]
    probabilities = merged(softmax(teacher.predict(x, verbose=0)), GROUPS), softmax(other.predict(x, verbose=0))
    np.testing.assert_allclose(softmax(activations), np.mean(probabilities, axis=0), rtol=1e-5)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([], "`classes` must be a list"),
        (3, "`classes` must be a list.*Received: 3"),
        ("012", "`classes` must be a list"),
        ({0: 1}, "`classes` must be a list"),
        ([0, [], 1, []], r"no teacher class for the student classes \[1, 3\]"),
        ([0, 1.0], r"indices of teacher classes, integers >= 0. Received: \[1.0\]"),
        ([0, True], r"Received: \[True\]"),
        ([0, [1, "cat"]], r"Received: \['cat'\]"),
        ([0, -1], r"Received: \[-1\]"),
        ([0, [1, 2], [2, 0]], r"Used more than once: \[0, 2\]"),
        ([[3, 3]], r"Used more than once: \[3\]"),
    ],
)
def test_invalid_class_maps_raise(classes, message):
    with pytest.raises(ValueError, match=message):
        ModelTeacher(mlp(), classes=classes)


def test_classes_that_the_teacher_does_not_have_raise_before_training():
    teacher = ModelTeacher(wide_teacher(), classes=[0, [6, 7], 9])
    with pytest.raises(ValueError, match=r"uses the teacher classes \[7, 9\].*shape \(None, 7\) has 7 classes"):
        Distiller(student=mlp(), teacher=teacher, terms=[Term(KLDivergence())])


def test_another_number_of_student_classes_raises_before_training():
    with pytest.raises(ValueError, match="3 student classes with 2 teacher classes.*classes="):
        Distiller(student=mlp(), teacher=ModelTeacher(wide_teacher(), classes=[0, 1]), terms=[Term(KLDivergence())])


def test_the_logits_of_a_softmax_are_mapped():
    (x, _), teacher = data(), wide_teacher()
    expected = activations_of(ModelTeacher(teacher, classes=GROUPS), x)[OUTPUT]
    teacher.add(keras.layers.Softmax())
    mapped = activations_of(ModelTeacher(teacher, classes=GROUPS), x)[OUTPUT]
    # In eager execution, the logits may be read as logarithms of probabilities: up to a constant per example.
    shift = np.array(mapped) - np.array(expected)
    np.testing.assert_allclose(shift, np.broadcast_to(shift[:, :1], shift.shape), atol=1e-5)


def test_a_sigmoid_is_not_mapped():
    teacher = wide_teacher()
    teacher.add(keras.layers.Activation("sigmoid"))
    with pytest.raises(ValueError, match="The teacher's output ends in a sigmoid, but `classes` maps logits"):
        Distiller(student=mlp(), teacher=ModelTeacher(teacher, classes=GROUPS), terms=[Term(KLDivergence())])


def test_mapped_activations_are_cached_and_identified(tmp_path):
    x, teacher = data()[0], wide_teacher()
    mapped = ModelTeacher(teacher, classes=GROUPS)
    label(mapped, x, tmp_path, verbose=0)
    stored = open_cache(tmp_path, ModelTeacher(teacher, classes=GROUPS))
    activations = split_inputs(stored.load(x))[1]
    np.testing.assert_allclose(activations[OUTPUT], activations_of(mapped, x)[OUTPUT], rtol=1e-5, atol=1e-6)
    for other in (teacher, ModelTeacher(teacher, classes=[[4, 0], [1, 5, 6], 2])):
        with pytest.raises(ValueError, match="of another teacher"):
            open_cache(tmp_path, other)
        with pytest.raises(ValueError, match="holds a cache with other settings"):
            label(other, x, tmp_path, verbose=0)


def test_a_saved_model_may_use_another_resolution(tmp_path):
    def model(size, name):
        layers = [keras.Input((size, size, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
        return keras.Sequential(layers, name=name)

    images, student, teacher = features(24, 4, 4, 1), model(4, "student"), model(8, "teacher")
    teacher.export(tmp_path / "teacher", verbose=False)
    layer = keras.layers.TFSMLayer(str(tmp_path / "teacher"), call_endpoint="serve")
    saved_teacher = ModelTeacher(layer, inputs=lambda x: keras.ops.image.resize(x, (8, 8)))
    distiller = Distiller(student=student, teacher=saved_teacher, terms=[Term(KLDivergence(1.0))])
    logged = fitted(compiled(distiller, keras.optimizers.SGD(0.0)), images, data()[1])
    larger = keras.ops.image.resize(images, (8, 8))
    kl = softened_kl(student.predict(images, verbose=0), teacher.predict(larger, verbose=0), 1.0).mean()
    np.testing.assert_allclose(logged["kl_divergence_loss"][0], kl, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_distills_from_half_precision_into_single_precision(dtype):
    keras.config.set_dtype_policy(dtype)
    teacher = mlp(16, name="teacher")
    keras.config.set_dtype_policy("float32")
    (x, y), student = data(), mlp()
    terms = [Term(KLDivergence(1.0)), Term(Hint(), "features", "features", head="auto")]
    teacher_logits = np.asarray(keras.ops.cast(teacher(x), "float32"))
    kl = softened_kl(student.predict(x, verbose=0), teacher_logits, 1.0).mean()
    distiller = compiled(Distiller(student=student, teacher=teacher, terms=terms), keras.optimizers.SGD(0.05))
    assert distiller.evaluate(x, y, verbose=0, return_dict=True)["kl_divergence_loss"] == pytest.approx(kl, rel=1e-3)
    history = fitted(distiller, x, y, epochs=4)
    assert history["loss"][-1] < history["loss"][0]
    assert {weight.dtype for weight in student.weights} == {"float32"}


def test_distills_from_a_trained_copy_of_the_student():
    (x, y), teacher = data(), mlp(name="net")
    fitted(compiled(teacher), x, y, epochs=3)
    student = keras.models.clone_model(teacher)
    student.set_weights(weights_of(teacher))
    before = weights_of(teacher)
    distiller = compiled(
        Distiller(student=student, teacher=teacher, terms=[Term(KLDivergence()), Term(Hint(), "features", "features")])
    )
    # Student and teacher are equal at first, so all terms are 0.
    start = distiller.evaluate(x, y, verbose=0, return_dict=True)
    assert start["kl_divergence_loss"] == start["hint_loss"] == 0
    fitted(distiller, x, y, epochs=2)
    assert_same_weights(before, weights_of(teacher), rtol=0, atol=0)
    assert any((old != new).any() for old, new in zip(before, weights_of(student)))


@pytest.mark.case("D1")
def test_a_map_of_many_classes():
    # A map that is quadratic in the number of classes would not end.
    count = 300_000
    order = np.random.default_rng(0).permutation(count)
    logits = features(2, count)
    teacher = ModelTeacher(lambda x: logits, classes=order.tolist())
    teacher.connect(["output"])
    np.testing.assert_array_equal(teacher.activations(Batch(np.zeros((2, 1))))["output"], logits[:, order])


@pytest.mark.case("D1")
def test_a_class_of_many_classes():
    # Half of the teacher's classes are one class of the student: a matrix of all groups would have 2.5e9 entries.
    count = 100_000
    logits = features(2, count)
    teacher = ModelTeacher(lambda x: logits, classes=[*range(count // 2), list(range(count // 2, count))])
    teacher.connect(["output"])
    mapped = teacher.activations(Batch(np.zeros((2, 1))))["output"]
    np.testing.assert_array_equal(mapped[:, :-1], logits[:, : count // 2])
    expected = np.log(np.exp(logits[:, count // 2 :].astype("float64")).sum(axis=-1))
    np.testing.assert_allclose(mapped[:, -1], expected, rtol=1e-6)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_masked_classes_in_groups(jit_compile):
    logits = tf.constant([[-np.inf, 1.0, -np.inf, -np.inf, 1e4]])
    mapped = tf.function(lambda x: map_logits(x, [[0, 1], [2, 3], [4]]), jit_compile=jit_compile)(logits)
    np.testing.assert_array_equal(mapped, [[1.0, -np.inf, 1e4]])


def test_the_identity_of_a_teacher_includes_its_inputs():
    def halved(x):
        return x / 2

    assert ModelTeacher(mlp()).signature == ""
    assert ModelTeacher(mlp(), classes=[1, 0]).signature == "classes ((1,), (0,))"
    assert "halved" in ModelTeacher(mlp(), inputs=halved).signature
