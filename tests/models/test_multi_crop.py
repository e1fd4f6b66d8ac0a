"""Multi-crop self-distillation: MultiCrop as the student and as the model of an EMATeacher."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import Distiller, MultiCrop, Term, load_distiller, preflight
from keras_distill.losses import CenteredKL
from keras_distill.teachers import EMATeacher
from tests.support.helpers import assert_same_weights, features, fitted, softmax, weights_of


def network(prototypes=6):
    """Return a model of images of any size with batch normalization, whose statistics a teacher does not change."""
    return keras.Sequential(
        [
            keras.Input((None, None, 1)),
            keras.layers.Conv2D(4, 3, padding="same", name="conv"),
            keras.layers.BatchNormalization(),
            keras.layers.GlobalAveragePooling2D(name="vector"),
            keras.layers.Dense(prototypes, name="prototypes"),
        ],
        name="network",
    )


def crops(examples=8):
    """Return two large and three small crops of each example."""
    return [features(examples, 2, 6, 6, 1), features(examples, 3, 4, 4, 1, seed=1)]


def large(crops):
    return crops[0]


def dino(**settings):
    keras.utils.set_random_seed(0)
    student = MultiCrop(network())
    teacher = EMATeacher(student, decay=0.5, inputs=large)
    term = Term(CenteredKL(pairs="crops", **settings), name="dino")
    return Distiller(student=student, teacher=teacher, terms=[term], inputs=crops())


def reference(student, teacher, center, temperature, teacher_temperature):
    """Multi-crop loss of the paper, a cross-entropy, less the mean entropy of the teacher's predictions."""
    total, pairs = 0.0, 0
    for i in range(teacher.shape[1]):
        p = softmax(teacher[:, i] - center, teacher_temperature)
        for j in range(student.shape[1]):
            if j != i:
                q = softmax(student[:, j], temperature)
                total += (-p * np.log(q) + p * np.log(p)).sum(-1).mean()
                pairs += 1
    return total / pairs


def test_applies_the_model_to_each_crop_in_order():
    model, (first, second) = network(), crops()
    outputs = MultiCrop(model)([first, second])
    expected = [model(x[:, crop]) for x in (first, second) for crop in range(x.shape[1])]
    np.testing.assert_allclose(outputs, np.stack(expected, axis=1), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(MultiCrop(model)(first), outputs[:, :2])


def test_several_outputs_keep_their_structure():
    inner = network()
    model = keras.Model(inner.inputs, {"vector": inner.get_layer("vector").output, "logits": inner.outputs[0]})
    outputs = MultiCrop(model)(crops())
    assert {name: tuple(x.shape) for name, x in outputs.items()} == {"vector": (8, 5, 4), "logits": (8, 5, 6)}


@pytest.mark.parametrize(
    "inputs",
    [{"large": features(8, 2, 6, 6, 1)}, [crops(), crops()[0]], features(8, 6), keras.Input((None, 6, 6, 1))],
)
def test_inputs_that_are_no_crops_raise(inputs):
    with pytest.raises(ValueError, match="'network_multi_crop' takes a tensor of shape"):
        MultiCrop(network())(inputs)


def test_a_model_that_is_not_built_raises():
    with pytest.raises(ValueError, match="MultiCrop takes a built keras.Model"):
        MultiCrop(keras.Sequential([keras.layers.Dense(3)]))


def test_a_step_matches_the_paper():
    distiller = dino(temperature=0.5, teacher_temperature=0.2, momentum=0.75)
    distiller.compile(keras.optimizers.SGD(0.5))
    x, weights = crops(), weights_of(distiller.student)
    student = np.asarray(distiller.student(x, training=True), "float64")
    teacher = np.asarray(distiller.teacher.model(x[0], training=False), "float64")
    distiller.student.set_weights(weights)
    value = fitted(distiller, x)["dino_loss"][0]
    np.testing.assert_allclose(value, reference(student, teacher, 0.0, 0.5, 0.2), rtol=1e-4)
    center = 0.25 * teacher.mean((0, 1))
    np.testing.assert_allclose(distiller.term_losses[0].center, center, rtol=1e-4, atol=1e-6)
    latest = weights_of(distiller.student)
    average = [0.5 * old + 0.5 * new for old, new in zip(weights, latest)]
    assert_same_weights(weights_of(distiller.teacher.model), average)
    assert not np.allclose(latest[0], weights[0])

    student = np.asarray(distiller.student(x, training=False), "float64")
    teacher = np.asarray(distiller.teacher.model(x[0], training=False), "float64")
    evaluated = distiller.evaluate(x, verbose=0, return_dict=True)["dino_loss"]
    np.testing.assert_allclose(evaluated, reference(student, teacher, center, 0.5, 0.2), rtol=1e-4)
    np.testing.assert_allclose(distiller.term_losses[0].center, center, rtol=1e-4, atol=1e-6)


def test_training_continues_after_saving(tmp_path):
    distiller = dino()
    distiller.compile(keras.optimizers.SGD(0.1))
    x = crops(16)
    fitted(distiller, x)
    distiller.save(tmp_path / "d.keras")
    teacher = EMATeacher(MultiCrop(network()), decay=0.5, inputs=large)
    loaded = load_distiller(tmp_path / "d.keras", teacher)
    assert isinstance(loaded.student, MultiCrop)
    assert fitted(distiller, x) == fitted(loaded, x)
    assert_same_weights(weights_of(distiller), weights_of(loaded), rtol=0, atol=0)
    assert_same_weights(weights_of(distiller.teacher.model), weights_of(teacher.model), rtol=0, atol=0)


def test_the_preflight_check_takes_crops():
    distiller = dino()
    distiller.compile(keras.optimizers.SGD(0.1))
    assert preflight.check(distiller, crops(64)) == []


@pytest.mark.parametrize(
    ("student", "x", "inputs", "prototypes", "message"),
    [
        (MultiCrop, crops()[0], None, 5, "compares 6 student classes with 5 teacher classes"),
        (MultiCrop, crops()[0][:, :1], None, 6, "Received: 1 crops of the student, 1 of the teacher"),
        (lambda model: model, crops()[0][:, 0], lambda x: x[:, None], 6, r"student shape \(None, 6\), teacher shape"),
    ],
    ids=["prototypes", "one crop", "no crops"],
)
def test_shapes_that_do_not_fit_raise_before_training(student, x, inputs, prototypes, message):
    teacher = EMATeacher(MultiCrop(network(prototypes)), inputs=inputs)
    with pytest.raises(ValueError, match=message):
        Distiller(student=student(network()), teacher=teacher, terms=[CenteredKL(pairs="crops")], inputs=x)


def test_a_teacher_of_more_crops_than_the_student_raises():
    with pytest.raises(ValueError, match="Received: 2 crops of the student, 3 of the teacher"):
        CenteredKL(pairs="crops").build((None, 2, 4), (None, 3, 4))


def test_mixed_precision_is_that_of_the_model():
    policy = keras.DTypePolicy("mixed_float16")
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, dtype=policy)])
    model.dtype_policy = policy
    student = MultiCrop(model)
    assert student.compute_dtype == "float16" and student(np.ones((4, 5, 2), "float32")).dtype == "float16"


def test_export_is_that_of_the_model_of_one_crop(tmp_path):
    distiller, images = dino(), features(4, 6, 6, 1)
    distiller.compile("adam")
    distiller.fit(tf.data.Dataset.from_tensor_slices((tuple(crops()),)).batch(4), verbose=0)
    distiller.export(tmp_path, verbose=False)
    exported, expected = tf.saved_model.load(tmp_path), distiller.student.model(images)
    np.testing.assert_allclose(exported.serve(images), expected, rtol=1e-4, atol=1e-6)
