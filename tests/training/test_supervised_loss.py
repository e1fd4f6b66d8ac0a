"""The supervised loss is the user's own: in a distiller without a teacher it is what `student.fit` makes of it."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_distill import Confidence, Distiller, MutualDistiller, Term, load_distiller
from keras_distill.losses import BinaryKD, Hint, KLDivergence
from tests.support.helpers import compiled, crossentropy, data, features, fitted, mlp, softmax, weights_of


def both(make, compile, *arguments, **options):
    """Fit a model by Keras and in a distiller; return the two histories and the two models."""
    histories, models = [], []
    for wrap in (lambda model: model, lambda model: Distiller(student=model, teacher=None)):
        keras.utils.set_random_seed(0)
        model = make()
        trained = wrap(model)
        compile(trained)
        histories.append(fitted(trained, *arguments, **options))
        models.append(model)
    return histories, models


def assert_equal(histories, models, rtol=0.0):
    expected, found = histories
    assert expected.keys() <= found.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=rtol or 1e-6)
    for one, other in zip(*map(weights_of, models), strict=True):
        np.testing.assert_allclose(other, one, rtol=rtol, atol=rtol)


class Penalized(keras.Model):
    """Adds 1000 and the mean square of its outputs to the loss."""

    def __init__(self, **options):
        super().__init__(**options)
        self.dense = keras.layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.1))

    def call(self, inputs):
        return self.dense(inputs)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return 1000.0 + ops.mean(ops.square(y_pred)) + super().compute_loss(x, y, y_pred, sample_weight)


class OfMetrics(keras.Model):
    """Computes metrics of reversed labels."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(3)

    def call(self, inputs):
        return self.dense(inputs)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return super().compute_metrics(x, 2 - y, y_pred, sample_weight) | {"twice": 2.0}


@pytest.mark.case("A1")
@pytest.mark.parametrize("make", [Penalized, OfMetrics])
def test_a_student_with_its_own_loss_keeps_it(make):
    x, y = data()

    def compile(model):
        model.compile(keras.optimizers.SGD(0.01), crossentropy(), metrics=["accuracy"])

    def build():
        model = make()
        model(x[:1])
        return model

    assert_equal(*both(build, compile, x, y, epochs=2), rtol=1e-6)


@pytest.mark.case("A1")
def test_its_loss_is_a_part_of_the_distillers_and_its_compiled_state_is_kept():
    x, y = data()
    student, teacher = Penalized(), mlp(name="teacher")
    student.compile("adam", "mse")
    before = {name: getattr(student, name) for name in ("optimizer", "loss", "_compile_loss", "_loss_tracker")}
    distiller = Distiller(student=student, teacher=teacher, terms=[Term(KLDivergence())], inputs=x)
    distiller.compile(keras.optimizers.SGD(0.0), crossentropy())
    logs = fitted(distiller, x, y, batch_size=24)
    assert {name: getattr(student, name) for name in before} == before
    outputs = student.predict(x, verbose=0)
    expected = 1000 + np.mean(outputs**2) + float(crossentropy()(y, outputs)) + float(sum(student.losses))
    np.testing.assert_allclose(logs["supervised_loss"][0], expected, rtol=1e-6)
    np.testing.assert_allclose(logs["loss"][0], expected + logs["kl_divergence_loss"][0], rtol=1e-6)


@pytest.mark.case("A1")
def test_its_own_compiled_loss_is_used_if_the_distiller_gets_none():
    x, y = data()
    student = Penalized()
    student.compile("sgd", crossentropy(), metrics=["accuracy"])
    expected = student.evaluate(x, y, verbose=0, return_dict=True)
    distiller = Distiller(student=student, teacher=None)
    distiller.compile("sgd")
    found = distiller.evaluate(x, y, verbose=0, return_dict=True)
    np.testing.assert_allclose(found["supervised_loss"], expected["loss"], rtol=1e-6)
    assert found["accuracy"] == expected["accuracy"]
    with pytest.raises(ValueError, match=r"got \['metrics'\] without a loss. Pass them to the student's `compile`"):
        distiller.compile("sgd", metrics=["accuracy"])


@pytest.mark.case("A1")
def test_peers_with_their_own_loss():
    x, y = data()
    peers = {"own": Penalized(), "plain": mlp()}
    distiller = MutualDistiller(peers, inputs=x)
    distiller.compile(keras.optimizers.SGD(0.0), crossentropy())
    logs = fitted(distiller, x, y, batch_size=24)
    outputs = peers["own"].predict(x, verbose=0)
    expected = 1000 + np.mean(outputs**2) + float(crossentropy()(y, outputs)) + float(sum(peers["own"].losses))
    np.testing.assert_allclose(logs["own_supervised_loss"][0], expected, rtol=1e-6)
    expected = float(crossentropy()(y, peers["plain"].predict(x, verbose=0)))
    np.testing.assert_allclose(logs["plain_supervised_loss"][0], expected, rtol=1e-6)


class OfLabels(Penalized):
    """Needs labels."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return ops.mean(ops.cast(y["classes"], "float32")) + 0.0 * ops.mean(y_pred)


@pytest.mark.case("A1")
def test_a_loss_that_needs_labels_is_left_out_by_a_weight_of_0():
    x, _ = data()

    def fit(weight):
        student, teacher = OfLabels(name="own"), mlp(name="teacher")
        distiller = Distiller(student=student, teacher=teacher, supervised_weight=weight, inputs=x)
        distiller.compile("sgd")
        return fitted(distiller, x)

    with pytest.raises(ValueError, match=r"`compute_loss` of 'own' failed without labels.*`supervised_weight=0`"):
        fit(1.0)
    logs = fit(0)
    assert logs["loss"] == logs["kl_divergence_loss"]


@pytest.mark.case("A1")
def test_a_student_with_its_own_training_step_raises():
    class Own(Penalized):
        def train_step(self, data):
            return {}

    message = r"'mine' \(Own\) overrides `train_step`.*Move its loss to `compute_loss"
    with pytest.raises(ValueError, match=message):
        Distiller(student=Own(name="mine"), teacher=None, inputs=features(2, 8))
    with pytest.raises(ValueError, match=message):
        MutualDistiller([Own(name="mine"), mlp()], inputs=features(2, 8))


@pytest.mark.case("A2")
def test_a_detector_of_keras_hub():
    keras_hub = pytest.importorskip("keras_hub")
    models = keras_hub.models

    def detector(name):
        backbone = models.ResNetBackbone(
            input_conv_filters=[64],
            input_conv_kernel_sizes=[7],
            stackwise_num_filters=[64, 64, 64],
            stackwise_num_blocks=[1, 1, 1],
            stackwise_num_strides=[1, 2, 2],
            block_type="basic_block",
            image_shape=(64, 64, 3),
        )
        backbone = models.RetinaNetBackbone(
            image_encoder=backbone, min_level=3, max_level=4, use_p5=False, image_shape=(64, 64, 3)
        )
        from keras_hub.src.models.retinanet.retinanet_label_encoder import RetinaNetLabelEncoder

        anchors = keras_hub.layers.AnchorGenerator(
            bounding_box_format="xyxy",
            min_level=3,
            max_level=4,
            num_scales=3,
            aspect_ratios=[0.5, 1.0, 2.0],
            anchor_size=2.0,
        )
        encoder = RetinaNetLabelEncoder(
            bounding_box_format="xyxy", anchor_generator=anchors, encoding_format="center_xywh"
        )
        return models.RetinaNetObjectDetector(
            backbone=backbone,
            label_encoder=encoder,
            num_classes=3,
            bounding_box_format="xyxy",
            preprocessor=None,
            name=name,
        )

    student, teacher = detector("student"), detector("teacher")
    x = features(4, 64, 64, 3)
    corners = np.sort(np.random.default_rng(0).uniform(0, 64, (4, 2, 2, 2)), axis=2)
    y = {
        "boxes": corners.reshape(4, 2, 4).astype("float32"),
        "labels": np.random.default_rng(1).integers(0, 3, (4, 2)).astype("float32"),
    }
    student.compile("sgd")
    expected = student.evaluate(x, y, batch_size=4, verbose=0, return_dict=True)["loss"]
    # The head runs on P4 first, since the graph of Keras has that order.
    weighted = {"positions": Confidence("classification_head@1"), "over": "tokens", "name": "neck"}
    terms = [
        Term(Hint(), "output[bbox_regression]", "output[bbox_regression]", name="boxes"),
        Term(Hint(), "output[cls_logits]", "output[cls_logits]", name="classes"),
        Term(Hint(), "fpn[P3]", "fpn[P3]", **weighted),
    ]
    distiller = Distiller(student=student, teacher=teacher, terms=terms)
    # Its labels have other names than its outputs; an `Experiment` passes a list of no metrics.
    distiller.compile(keras.optimizers.SGD(0.001), metrics=[])
    found = distiller.evaluate(x, y, batch_size=4, verbose=0, return_dict=True)
    np.testing.assert_allclose(found["supervised_loss"], expected, rtol=1e-6)
    ours, others = (model.backbone(x, training=False)["P3"] for model in (student, teacher))
    scores = keras.ops.sigmoid(teacher.classification_head(others)).numpy().max(-1)
    squares = np.square(ours.numpy() - others.numpy()).mean(-1)
    np.testing.assert_allclose(found["neck_loss"], (scores * squares).sum() / scores.sum(), rtol=1e-4)
    total = sum(found[f"{name}_loss"] for name in ("supervised", "boxes", "classes", "neck"))
    np.testing.assert_allclose(found["loss"], total, rtol=1e-6)
    assert np.isfinite(distiller.fit(x, y, batch_size=4, verbose=0).history["loss"][0])


@pytest.mark.case("A3")
def test_labels_that_are_not_used_are_warned_of():
    x, y = data()
    student = mlp()
    student.compile("sgd", crossentropy())
    distiller = Distiller(student=student, teacher=mlp(name="teacher"))
    distiller.compile("sgd")
    with pytest.warns(UserWarning, match="The labels are not used: 'student' is compiled with a loss"):
        fitted(distiller, x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fitted(distiller, x)


def quantile(y_true, y_pred):
    """Pinball loss of the 10 % and the 90 % quantile; one label for two outputs."""
    y_true = ops.cast(ops.reshape(y_true, (-1, 1)), "float32")
    error, level = y_true - y_pred, ops.convert_to_tensor([0.1, 0.9])
    return ops.mean(ops.maximum(level * error, (level - 1.0) * error), axis=-1)


@pytest.mark.case("A4")
@pytest.mark.parametrize("shape", [(24,), (24, 1)])
@pytest.mark.parametrize("dtype", ["float32", "int32", "int8"])
def test_minus_one_is_a_value_of_a_real_target(dtype, shape):
    x = features(24, 8)
    y = np.where(np.arange(24) % 2, 2, -1).astype(dtype).reshape(shape)

    def make():
        return keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)])

    def compile(model):
        model.compile(keras.optimizers.SGD(0.1), quantile, metrics=[quantile])

    assert_equal(*both(make, compile, x, y, epochs=3))


@pytest.mark.case("A4")
@pytest.mark.parametrize("loss", ["hinge", "squared_hinge", "mse"])
def test_minus_one_is_a_value_of_a_hinge_label(loss):
    x, y = features(24, 8), np.where(np.arange(24) % 3, 1, -1)

    def make():
        return keras.Sequential([keras.Input((8,)), keras.layers.Dense(1, "tanh")])

    assert_equal(*both(make, lambda model: model.compile("sgd", loss, metrics=["mae"]), x, y, epochs=2))


@pytest.mark.case("A4")
def test_a_loss_declares_that_it_reads_class_indices():
    def own(y_true, y_pred):
        return keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)

    own.reads_class_indices = True
    x, y = data()
    labeled = y.copy()
    labeled[::3] = -1
    student = mlp()
    distiller = compiled(Distiller(student=student, teacher=None), keras.optimizers.SGD(0.0), own, metrics=["accuracy"])
    logs = fitted(distiller, x, labeled, batch_size=24)
    kept = labeled >= 0
    outputs = student.predict(x, verbose=0)
    np.testing.assert_allclose(logs["supervised_loss"][0], float(crossentropy()(y[kept], outputs[kept])), rtol=1e-6)
    np.testing.assert_allclose(logs["accuracy"][0], np.mean(outputs[kept].argmax(-1) == y[kept]), rtol=1e-6)


@pytest.mark.case("A4")
def test_float_class_numbers_raise():
    x, y = data()
    distiller = compiled(Distiller(student=mlp(), teacher=None))
    with pytest.raises(ValueError, match=r"reads class indices, but the labels have the dtype float32. Cast them"):
        fitted(distiller, x, y.astype("float32"))


def of_images(y_true, y_pred):
    """One value for each image."""
    return ops.mean(ops.abs(y_true - y_pred), axis=(1, 2, 3))


IMAGE_LOSSES = {"dice": lambda: keras.losses.Dice(axis=(1, 2, 3)), "function": lambda: of_images}


def segmenter():
    return keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3, padding="same", activation="sigmoid")])


@pytest.mark.case("A5")
@pytest.mark.parametrize("examples", [16, 8])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", IMAGE_LOSSES)
def test_a_loss_of_one_value_per_image(loss, weighted, examples):
    x, y = features(examples, 8, 8, 3), np.round(np.abs(features(examples, 8, 8, 2, seed=1)).clip(0, 1))
    weight = np.linspace(0.1, 2, examples) if weighted else None

    def compile(model):
        model.compile(keras.optimizers.SGD(0.1), IMAGE_LOSSES[loss](), metrics=[of_images])

    assert_equal(*both(segmenter, compile, x, y, sample_weight=weight, batch_size=8, epochs=2))


@pytest.mark.case("A5")
@pytest.mark.parametrize("mutual", [False, True])
def test_an_image_with_missing_labels_is_left_out_of_such_a_loss(mutual):
    x, y = features(16, 8, 8, 3), np.abs(features(16, 8, 8, 2, seed=1)).clip(0, 1)
    student = segmenter()
    missing = y.copy()
    missing[3], missing[7, 2, 2, 0] = np.nan, np.nan
    if mutual:
        other = segmenter()
        sigmoid = keras.Sequential([keras.Input((8, 8, 3)), other])
        distiller = MutualDistiller({"a": student, "b": sigmoid}, loss=BinaryKD())
    else:
        distiller = Distiller(student=student, teacher=None)
    distiller.compile(keras.optimizers.SGD(0.0), of_images)
    logs = fitted(distiller, x, missing, batch_size=16)
    values = np.abs(y - student.predict(x, verbose=0)).mean(axis=(1, 2, 3))
    name = "a_supervised_loss" if mutual else "supervised_loss"
    np.testing.assert_allclose(logs[name][0], np.delete(values, [3, 7]).mean(), rtol=1e-5)


def two_outputs(as_dict=False):
    inputs = keras.Input((8,))
    outputs = {"a": keras.layers.Dense(3, name="a")(inputs), "b": keras.layers.Dense(1, name="b")(inputs)}
    return keras.Model(inputs, outputs if as_dict else list(outputs.values()))


@pytest.mark.case("A6")
@pytest.mark.parametrize("as_dict", [False, True])
@pytest.mark.parametrize("labels", ["dict", "list", "tuple"])
@pytest.mark.parametrize("loss", ["dict", "list", "single"])
def test_structures_of_labels_and_losses(as_dict, labels, loss):
    x, y = data()
    given = {"a": np.eye(3, dtype="float32")[y], "b": features(24, 1)}
    given = given if labels == "dict" else {"list": list, "tuple": tuple}[labels](given.values())
    losses = {"dict": {"a": "mse", "b": "mae"}, "list": ["mse", "mae"], "single": "mse"}[loss]

    def compile(model):
        metrics = {"a": ["accuracy"], "b": ["mae"]}
        model.compile(keras.optimizers.SGD(0.1), losses, metrics=metrics, weighted_metrics=metrics)

    try:
        plain = two_outputs(as_dict)
        compile(plain)
        fitted(plain, x, given)
    except Exception as error:
        # The distiller raises the error that Keras raises.
        distiller = Distiller(student=two_outputs(as_dict), teacher=None)
        with pytest.raises(type(error)):
            (compile(distiller), fitted(distiller, x, given))
    else:
        assert_equal(*both(lambda: two_outputs(as_dict), compile, x, given))


@pytest.mark.case("A7")
@pytest.mark.parametrize("shape", [(5,), (4, 5)])
@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_labels_without_the_last_axis_of_length_one(shape, dtype):
    x, y = features(8, *shape, 3), (features(8, *shape, seed=1) > 0).astype(dtype)

    def make():
        return keras.Sequential([keras.Input((*shape, 3)), keras.layers.Dense(1, "sigmoid")])

    def compile(model):
        model.compile(keras.optimizers.SGD(0.1), "binary_crossentropy", metrics=["accuracy", "mse"])

    assert_equal(*both(make, compile, x, y, batch_size=4, epochs=2))


@pytest.mark.case("A9")
@pytest.mark.parametrize("one_hot", [False, True])
def test_class_weights_of_a_dataset_with_missing_labels(one_hot):
    x, y = data()
    weights = np.array([0.5, 2.0, 1.0])
    y[::4] = -1
    labels, kept = (np.eye(4)[y][:, :3].astype("float32") if one_hot else y), y >= 0
    student = mlp()
    loss = keras.losses.CategoricalCrossentropy(from_logits=True) if one_hot else crossentropy()
    x, labels, kept = (x[kept], labels[kept], kept[kept]) if one_hot else (x, labels, kept)
    distiller = compiled(Distiller(student=student, teacher=None), keras.optimizers.SGD(0.0), loss)
    dataset = tf.data.Dataset.from_tensor_slices((x, labels)).batch(len(x))
    logs = fitted(distiller, dataset, class_weight={0: 0.5, 1: 2.0}, batch_size=None)
    classes = labels.argmax(-1)[kept] if one_hot else labels[kept]
    probabilities = ops.softmax(student.predict(x, verbose=0)[kept]).numpy()
    expected = np.mean(-np.log(probabilities[np.arange(len(classes)), classes]) * weights[classes])
    np.testing.assert_allclose(logs["supervised_loss"][0], expected, rtol=1e-5)


@pytest.mark.case("A9")
@pytest.mark.parametrize("one_hot", [False, True])
def test_an_example_without_a_label_has_the_class_weight_1(one_hot):
    x, y = data()
    missing = np.arange(len(y)) % 4 == 0
    labels = np.eye(3, dtype="float32")[y] if one_hot else y.astype("float32")
    labels[missing] = np.nan
    loss = keras.losses.CategoricalCrossentropy(from_logits=True) if one_hot else None
    student, teacher = mlp(), mlp(16, name="teacher")
    distiller = Distiller(student=student, teacher=teacher, terms=[Term(KLDivergence(1.0))])
    dataset = tf.data.Dataset.from_tensor_slices((x, labels)).batch(len(x))
    distiller.compile(keras.optimizers.SGD(0.0), loss)
    logs = fitted(distiller, dataset, class_weight={0: 5.0, 1: 2.0}, batch_size=None)
    p, q = (softmax(model.predict(x, verbose=0).astype("float64")) for model in (teacher, student))
    weights = np.where(missing, 1.0, np.array([5.0, 2.0, 1.0])[y])
    expected = np.mean(weights * (p * np.log(p / q)).sum(-1))
    np.testing.assert_allclose(logs["kl_divergence_loss"][0], expected, rtol=1e-4)


@pytest.mark.case("A9")
def test_class_weights_of_labels_of_unknown_rank_raise():
    x, y = data()
    dataset = tf.data.Dataset.from_generator(lambda: iter([(x, y)]), output_types=("float32", "int64"))
    distiller = compiled(Distiller(student=mlp(), teacher=None), keras.optimizers.SGD(0.0), crossentropy())
    with pytest.raises(ValueError, match="needs labels of known rank. Pass `output_signature`"):
        distiller.fit(dataset, class_weight={0: 5.0}, verbose=0)


COMPONENTS = {
    "mse": lambda y, p: (y - p) ** 2,
    "mae": lambda y, p: np.abs(y - p),
    "huber": lambda y, p: np.where(np.abs(y - p) <= 1, (y - p) ** 2 / 2, np.abs(y - p) - 0.5),
    "log_cosh": lambda y, p: np.log(np.cosh(y - p)),
    "msle": lambda y, p: (np.log1p(np.maximum(y, 1e-7)) - np.log1p(np.maximum(p, 1e-7))) ** 2,
    "mape": lambda y, p: 100 * np.abs((y - p) / np.maximum(np.abs(y), 1e-7)),
    "poisson": lambda y, p: p - y * np.log(p + 1e-7),
    "binary_crossentropy": lambda y, p: -(y * np.log(p) + (1 - y) * np.log(1 - p)),
    "hinge": lambda y, p: np.maximum(1 - y * p, 0),
}


@pytest.mark.case("A10")
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", COMPONENTS)
def test_a_missing_component_is_left_out(name, weighted):
    student = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, "sigmoid")])
    x, y = features(12, 8), np.random.default_rng(3).uniform(0.1, 0.9, (12, 4)).astype("float32")
    y = np.where(y > 0.5, 1.0, -1.0).astype("float32") if name == "hinge" else y
    y[1, 2], y[4], y[5, :3] = np.nan, np.nan, np.nan
    weight = np.linspace(0.5, 2.0, 12) if weighted else np.ones(12)
    distiller = compiled(Distiller(student=student, teacher=None), keras.optimizers.SGD(0.1), name)
    outputs = student.predict(x, verbose=0).astype("float64")
    logs = fitted(distiller, x, y, batch_size=12, sample_weight=weight if weighted else None)
    values = COMPONENTS[name](y.astype("float64"), outputs)
    rows = np.array([np.mean(row[~np.isnan(row)]) for row in values if not np.isnan(row).all()])
    expected = np.mean(rows * np.delete(weight, 4))
    np.testing.assert_allclose(logs["supervised_loss"][0], expected, rtol=1e-5)
    assert all(np.isfinite(each).all() for each in weights_of(student))


@pytest.mark.case("A10")
@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_a_missing_component_of_smoothed_binary_labels(from_logits, label_smoothing):
    student = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, None if from_logits else "sigmoid")])
    x, y = features(12, 8), np.random.default_rng(3).integers(0, 2, (12, 4)).astype("float32")
    y[::2, 1] = np.nan
    loss = keras.losses.BinaryCrossentropy(from_logits=from_logits, label_smoothing=label_smoothing)
    outputs = student.predict(x, verbose=0).astype("float64")
    probabilities = 1 / (1 + np.exp(-outputs)) if from_logits else outputs
    smoothed = y * (1 - label_smoothing) + label_smoothing / 2
    values = -(smoothed * np.log(probabilities) + (1 - smoothed) * np.log(1 - probabilities))
    distiller = compiled(Distiller(student=student, teacher=None), keras.optimizers.SGD(0.0), loss)
    logs = fitted(distiller, x, y, batch_size=12)
    np.testing.assert_allclose(logs["supervised_loss"][0], np.nanmean(values, -1).mean(), rtol=1e-5)


@pytest.mark.case("A11")
def test_a_loss_without_labels_is_warned_of():
    x, _ = data()
    distiller = compiled(Distiller(student=mlp(), teacher=mlp(name="teacher")))
    with pytest.warns(UserWarning, match="the data hold no labels: the supervised loss is 0"):
        fitted(distiller, x)


@pytest.mark.case("A13")
def test_weights_that_become_trainable_after_compile():
    x, y = data()
    student = mlp()
    student.get_layer("features").trainable = False
    distiller = compiled(Distiller(student=student, teacher=None))
    student.get_layer("features").trainable = True
    with pytest.raises(
        ValueError, match=r"2 weights became trainable after `compile`, such as 'student/features/kernel'. Call"
    ):
        fitted(distiller, x, y)
    compiled(distiller)
    fitted(distiller, x, y)


class Counting(keras.layers.Layer):
    """Identity that tracks the mean of its inputs."""

    def __init__(self, **options):
        super().__init__(**options)
        self.mean = keras.metrics.Mean(name="mean_input")

    def call(self, inputs):
        self.mean.update_state(inputs)
        return inputs


@pytest.mark.case("A14")
def test_metrics_of_layers_are_logged_and_reset():
    x, y = data()

    def make():
        return keras.Sequential([keras.Input((8,)), Counting(), keras.layers.Dense(3)])

    histories, models = both(make, lambda model: model.compile("sgd", crossentropy()), x, y, epochs=2)
    assert "mean_input" in histories[0]
    assert_equal(histories, models)


class WithMetric(keras.Model):
    """Owns a metric itself."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(3)
        self.largest = keras.metrics.Mean(name="largest")
        self.build((None, 8))

    def call(self, inputs):
        outputs = self.dense(inputs)
        self.largest.update_state(ops.max(outputs))
        return outputs


@pytest.mark.case("A14")
def test_metrics_of_a_student_are_logged_and_reset():
    x, y = data()
    histories, models = both(WithMetric, lambda model: model.compile("sgd", crossentropy()), x, y, epochs=2)
    assert "largest" in histories[0]
    assert_equal(histories, models)


class Named(Distiller):
    """Subclass of the user."""


@pytest.mark.case("A15")
def test_custom_objects_from_a_scope(tmp_path):
    class Custom(keras.layers.Dense):
        pass

    teacher, (x, y) = mlp(name="teacher"), data()
    student = keras.Sequential([keras.Input((8,)), Custom(3)])
    distiller = compiled(Distiller(student=student, teacher=teacher))
    fitted(distiller, x, y)
    distiller.save(tmp_path / "d.keras")
    with keras.saving.custom_object_scope({"Custom": Custom}):
        loaded = load_distiller(tmp_path / "d.keras", teacher)
    for one, other in zip(weights_of(student), weights_of(loaded.student), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.case("A15")
@pytest.mark.parametrize("scoped", [False, True])
def test_a_subclass_is_loaded(tmp_path, scoped):
    teacher, (x, y) = mlp(name="teacher"), data()
    distiller = compiled(Named(student=mlp(), teacher=teacher))
    fitted(distiller, x, y)
    distiller.save(tmp_path / "d.keras")
    if scoped:
        with keras.saving.custom_object_scope({"Named": Named}):
            loaded = load_distiller(tmp_path / "d.keras", teacher)
    else:
        loaded = load_distiller(tmp_path / "d.keras", teacher, custom_objects={"Named": Named})
    assert type(loaded) is Named


@pytest.mark.case("A17")
def test_mean_iou_does_not_warn(recwarn):
    x, y = features(8, 4, 4, 3), np.random.default_rng(0).integers(0, 2, (8, 4, 4))
    y[0, 0] = -1
    student = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Conv2D(2, 1)])
    distiller = Distiller(student=student, teacher=None)
    metric = keras.metrics.MeanIoU(2, sparse_y_pred=False)
    distiller.compile(keras.optimizers.SGD(0.0), crossentropy(), metrics=[metric])
    logs = fitted(distiller, x, y)
    predicted, kept = student.predict(x, verbose=0).argmax(-1), y >= 0
    expected = np.mean(
        [
            ((predicted == each) & (y == each) & kept).sum() / (((predicted == each) | (y == each)) & kept).sum()
            for each in range(2)
        ]
    )
    np.testing.assert_allclose(logs[metric.name][0], expected, rtol=1e-6)
    assert not [warning for warning in recwarn if "weight" in str(warning.message)]
