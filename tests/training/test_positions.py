"""Weights of positions: which output they belong to, resized to each tap; resolutions matched in each step."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_distill import Distiller, Term
from keras_distill.data import Batch
from keras_distill.heads import Convolution, Projection, Resize
from keras_distill.losses import (
    AttentionTransfer,
    ChannelWiseKD,
    DistillationLoss,
    HierarchicalContext,
    Hint,
    KLDivergence,
)
from keras_distill.losses.hierarchical_context import hierarchical_context
from keras_distill.models.masking import mean_over_positions
from keras_distill.models.specs import Spec
from tests.support.helpers import features, fitted, softmax, zero_rate_sgd
from tests.support.loss_models import LOSSES, SETTINGS


def block_means(weights, factor=2):
    """Return the means over blocks of pixels, by NumPy."""
    n, height, width = weights.shape
    return weights.reshape(n, height // factor, factor, width // factor, factor).mean((2, 4))


def segmenter(width, name, size=16, stride=2):
    inputs = keras.Input((size, size, 3))
    maps = keras.layers.Conv2D(width, 3, stride, "same", name="block")(inputs)
    logits = keras.layers.UpSampling2D(stride)(keras.layers.Conv2D(4, 1)(maps))
    return keras.Model(inputs, logits, name=name)


def activations(model, tap, x):
    return keras.Model(model.inputs, model.get_layer(tap).output).predict(x, verbose=0).astype("float64")


@pytest.mark.case("B1")
def test_weights_of_pixels_are_resized_to_a_smaller_tap():
    student, teacher = segmenter(4, "student"), segmenter(4, "teacher")
    x, y = features(6, 16, 16, 3), np.zeros((6, 16, 16), "int32")
    weight = np.random.default_rng(1).integers(0, 2, (6, 16, 16)).astype("float32")
    distiller = Distiller(student=student, teacher=teacher, terms=[Term(Hint(), "block", "block")])
    distiller.compile(zero_rate_sgd())
    found = fitted(distiller, x, y, sample_weight=weight, batch_size=6)["hint_loss"][0]
    error = ((activations(student, "block", x) - activations(teacher, "block", x)) ** 2).mean(-1)
    np.testing.assert_allclose(found, (error * block_means(weight)).mean(), rtol=1e-5)


@pytest.mark.case("B1")
@pytest.mark.parametrize("loss", [ChannelWiseKD(), KLDivergence(), AttentionTransfer()])
def test_losses_of_maps_take_weights_of_pixels(loss):
    student, teacher = segmenter(4, "student"), segmenter(4, "teacher")
    term = Term(loss, "block", "block")
    x, fine = features(2, 16, 16, 3), np.ones((2, 16, 16), "float32")
    fine[:, 4:10] = 0.0
    distiller = Distiller(student=student, teacher=teacher, terms=[term])
    distiller.compile(zero_rate_sgd())
    name = f"{distiller.terms[0].name}_loss"
    found = fitted(distiller, x, np.zeros((2, 16, 16)), sample_weight=fine)[name]
    batch = Batch(x, sample_weight=block_means(fine))
    pair = (activations(model, "block", x).astype("float32") for model in (student, teacher))
    np.testing.assert_allclose(found[0], np.mean(distiller.terms[0].compare(*pair, batch)), rtol=1e-5)


@pytest.mark.case("B1")
def test_a_tap_without_positions_has_the_mean_weight_of_the_image():
    def model(name):
        inputs = keras.Input((8, 8, 3))
        maps = keras.layers.Conv2D(4, 3, padding="same")(inputs)
        pooled = keras.layers.GlobalAveragePooling2D(name="pooled")(maps)
        return keras.Model(inputs, ops.add(maps, ops.reshape(pooled, (-1, 1, 1, 4))), name=name)

    student, teacher = model("student"), model("teacher")
    x, weight = features(4, 8, 8, 3), np.random.default_rng(1).uniform(size=(4, 8, 8)).astype("float32")
    distiller = Distiller(student=student, teacher=teacher, terms=[Term(Hint(), "pooled", "pooled")])
    distiller.compile(zero_rate_sgd())
    found = fitted(distiller, x, np.zeros((4, 8, 8)), sample_weight=weight)["hint_loss"][0]
    error = ((activations(student, "pooled", x) - activations(teacher, "pooled", x)) ** 2).mean(-1)
    np.testing.assert_allclose(found, (error * weight.mean((1, 2))).mean(), rtol=1e-5)


def masked_lm(name):
    """Predicts tokens at given positions, as KerasHub's masked language models do."""
    inputs = {
        "token_ids": keras.Input((8,), dtype="int32", name="token_ids"),
        "mask_positions": keras.Input((2,), dtype="int32", name="mask_positions"),
    }
    hidden = keras.layers.Dense(5, name="hidden")(keras.layers.Embedding(10, 4)(inputs["token_ids"]))
    picked = ops.take_along_axis(hidden, ops.expand_dims(inputs["mask_positions"], -1), axis=1)
    return keras.Model(inputs, keras.layers.Dense(10, name="words")(picked), name=name)


@pytest.mark.case("B2")
def test_weights_of_masked_positions_are_not_those_of_hidden_states():
    student, teacher = masked_lm("student"), masked_lm("teacher")
    random = np.random.default_rng(0)
    x = {"token_ids": random.integers(0, 10, (6, 8)), "mask_positions": random.integers(0, 8, (6, 2))}
    weight = np.array([[1.0, 1.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0], [0.5, 0.5]], "float32")
    distiller = Distiller(student=student, teacher=teacher, terms=[Term(Hint(), "hidden", "hidden")])
    distiller.compile(zero_rate_sgd())
    found = fitted(distiller, x, np.zeros((6, 2), "int32"), sample_weight=weight, batch_size=6)["hint_loss"][0]
    error = ((activations(student, "hidden", x) - activations(teacher, "hidden", x)) ** 2).mean((1, 2))
    np.testing.assert_allclose(found, (error * np.array([1, 1, 1, 0, 1, 0.5])).mean(), rtol=1e-5)


def encoder_decoder(name):
    inputs = {key: keras.Input((8,), dtype="int32", name=key) for key in ("encoder_ids", "decoder_ids")}
    encoded = keras.layers.Dense(5, name="encoded")(keras.layers.Embedding(10, 4)(inputs["encoder_ids"]))
    decoded = keras.layers.Embedding(10, 5)(inputs["decoder_ids"])
    attended = keras.layers.MultiHeadAttention(1, 5, name="attended")(decoded, encoded)
    return keras.Model(inputs, keras.layers.Dense(10, name="words")(attended), name=name)


@pytest.mark.case("B3")
def test_weights_of_the_decoder_are_not_those_of_the_encoder():
    student, teacher = encoder_decoder("student"), encoder_decoder("teacher")
    random = np.random.default_rng(0)
    x = {key: random.integers(0, 10, (6, 8)) for key in ("encoder_ids", "decoder_ids")}
    weight = np.zeros((6, 8), "float32")
    weight[:, 3] = 1.0
    terms = [Term(Hint(), tap, tap, name=tap) for tap in ("encoded", "attended")]
    distiller = Distiller(student=student, teacher=teacher, terms=terms)
    distiller.compile(zero_rate_sgd())
    logs = fitted(distiller, x, np.zeros((6, 8), "int32"), sample_weight=weight, batch_size=6)
    errors = {
        tap: ((activations(student, tap, x) - activations(teacher, tap, x)) ** 2).mean(-1)
        for tap in ("encoded", "attended")
    }
    np.testing.assert_allclose(logs["encoded_loss"][0], errors["encoded"].mean(), rtol=1e-5)
    np.testing.assert_allclose(logs["attended_loss"][0], errors["attended"][:, 3].mean() / 8, rtol=1e-5)


def of_any_size(width, stride, name):
    inputs = keras.Input((None, None, 3))
    maps = keras.layers.Conv2D(width, 3, stride, "same", name="block")(inputs)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(maps), name=name)


def bilinear(maps, size):
    """Half-pixel bilinear interpolation by NumPy, for whole multiples of the size."""
    for axis, length in enumerate(size, 1):
        old = maps.shape[axis]
        at = (np.arange(length) + 0.5) * old / length - 0.5
        low = np.floor(at).astype(int)
        part = (at - low).reshape([-1 if axis == each else 1 for each in range(maps.ndim)])
        low, high = np.clip(low, 0, old - 1), np.clip(low + 1, 0, old - 1)
        maps = np.take(maps, low, axis) * (1 - part) + np.take(maps, high, axis) * part
    return maps


@pytest.mark.case("B5")
@pytest.mark.parametrize("weighted", [False, True])
def test_unknown_resolutions_are_matched_in_each_step(weighted):
    student, teacher = of_any_size(4, 2, "student"), of_any_size(4, 1, "teacher")
    x = features(4, 12, 8, 3)
    weight = np.linspace(0.5, 2, 4) if weighted else np.ones(4)
    distiller = Distiller(student=student, teacher=teacher, terms=[Term(Hint(), "block", "block", head="auto")])
    distiller.compile(zero_rate_sgd())
    found = fitted(distiller, x, np.zeros(4), sample_weight=weight if weighted else None)["hint_loss"][0]
    resized = bilinear(activations(student, "block", x), (12, 8))
    error = ((resized - activations(teacher, "block", x)) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(found, (error * weight).mean(), rtol=1e-5)


@pytest.mark.case("B5")
@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize(
    "term",
    [
        Term(Hint(), "block", "block", head="auto"),
        Term(AttentionTransfer(), "block", "block"),
        Term(HierarchicalContext(), "block", "block", head="auto"),
        Term(ChannelWiseKD(), "block", "block", head="auto"),
    ],
    ids=lambda term: type(term.loss).__name__,
)
def test_models_of_any_size_train(term, jit):
    models = {"student": of_any_size(4, 2, "student"), "teacher": of_any_size(6, 1, "teacher")}
    distiller = Distiller(**models, terms=[term])
    distiller.compile("sgd", jit_compile=jit)
    for size in (8, 12):
        assert np.isfinite(fitted(distiller, features(4, size, size, 3))["loss"][0])


@pytest.mark.case("B5")
@pytest.mark.parametrize("height", [2, 3, 5, 9])
def test_hierarchical_context_of_unknown_height(height):
    student, teacher = features(2, height, 4, 3), features(2, height, 4, 3, seed=1)
    unknown = tf.function(
        hierarchical_context, input_signature=[tf.TensorSpec((None, None, None, 3))] * 2, autograph=False
    )
    np.testing.assert_allclose(unknown(student, teacher), hierarchical_context(student, teacher), rtol=1e-5)


@pytest.mark.case("B6")
def test_logits_of_another_resolution_are_resized():
    def model(stride, name):
        return keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Conv2D(5, 3, stride, "same")], name=name)

    student, teacher = model(2, "student"), model(1, "teacher")
    term = Term(KLDivergence(), head="auto")
    distiller = Distiller(student=student, teacher=teacher, terms=[term])
    assert isinstance(distiller.terms[0].head, Resize)
    distiller.compile(zero_rate_sgd())
    x = features(4, 16, 16, 3)
    found = fitted(distiller, x)["kl_divergence_loss"][0]
    temperature = distiller.terms[0].loss.temperature
    p = softmax(teacher.predict(x, verbose=0), temperature)
    q = softmax(bilinear(student.predict(x, verbose=0).astype("float64"), (16, 16)), temperature)
    np.testing.assert_allclose(found, temperature**2 * (p * np.log(p / q)).sum(-1).mean(), rtol=1e-4)
    with pytest.raises(ValueError, match="Add head=keras_distill.heads.Resize"):
        Distiller(student=student, teacher=teacher, terms=[Term(KLDivergence())])


@pytest.mark.case("B7")
@pytest.mark.parametrize(
    ("student", "teacher", "head"),
    [
        ((6, 5, 4, 3), (6, 5, 4, 8), Convolution),
        ((3, 5, 4, 8), (6, 10, 8, 8), Resize),
        ((3, 5, 4, 3), (6, 10, 8, 8), Convolution),
        ((10, 3), (20, 8), Convolution),
        ((10, 8), (20, 8), Resize),
        ((10, 3), (10, 8), Projection),
        ((5, 4, 8), (10, 8, 8), Resize),
    ],
)
def test_automatic_heads(student, teacher, head):
    def model(shape, name):
        return keras.Sequential([keras.Input(shape), keras.layers.Identity(name="tap")], name=name)

    term = Term(Hint(), "tap", "tap", head="auto").build(
        Spec((None, *student), "float32", "Add"), Spec((None, *teacher), "float32", "Add")
    )
    assert type(term.head) is head
    values = term.compare(features(2, *student), features(2, *teacher, seed=1), Batch(None))
    assert values.shape == (2,) and np.isfinite(values).all()


@pytest.mark.case("B10")
def test_a_loss_of_an_inner_tap_gets_all_labels():
    class InBoxes(DistillationLoss):
        needs_labels = True

        def compare(self, student, teacher, batch):
            return ops.mean(ops.square(student - teacher), axis=(1, 2, 3)) * batch.labels["boxes"][:, 0]

    student, teacher = segmenter(4, "student"), segmenter(4, "teacher")
    labels = {"boxes": np.arange(8.0, dtype="float32").reshape(4, 2), "classes": np.zeros(4)}
    distiller = Distiller(student=student, teacher=teacher, terms=[Term(InBoxes(), "block", "block")])
    distiller.compile(zero_rate_sgd())
    x = features(4, 16, 16, 3)
    found = fitted(distiller, x, labels, batch_size=4)["in_boxes_loss"][0]
    error = ((activations(student, "block", x) - activations(teacher, "block", x)) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(found, (error * labels["boxes"][:, 0]).mean(), rtol=1e-5)


def language_model(name):
    inputs = {
        "token_ids": keras.Input((8,), dtype="int32", name="token_ids"),
        "padding_mask": keras.Input((8,), dtype="int32", name="padding_mask"),
    }
    hidden = keras.layers.Embedding(10, 4)(inputs["token_ids"])
    hidden = hidden * ops.expand_dims(ops.cast(inputs["padding_mask"], "float32"), -1) + 0.1
    return keras.Model(inputs, keras.layers.Dense(10, name="words")(hidden), name=name)


@pytest.mark.case("D4")
@pytest.mark.parametrize("prompts", [False, True])
def test_a_mean_over_tokens(prompts):
    student, teacher = language_model("student"), language_model("teacher")
    random = np.random.default_rng(0)
    lengths = np.array([8, 2, 5, 3])
    mask = (np.arange(8) < lengths[:, None]).astype("int32")
    x = {"token_ids": random.integers(0, 10, (4, 8)), "padding_mask": mask}
    weight = (mask * (np.arange(8) > 0)).astype("float32") if prompts else None
    term = Term(KLDivergence(1.0), mask="padding_mask", over="tokens", name="kd")
    distiller = Distiller(student=student, teacher=teacher, terms=[term])
    distiller.compile(zero_rate_sgd())
    found = fitted(distiller, x, np.zeros((4, 8), "int32"), sample_weight=weight, batch_size=4)["kd_loss"][0]
    p, q = (softmax(model.predict(x, verbose=0)) for model in (teacher, student))
    values, counted = (p * np.log(p / q)).sum(-1), mask * (1 if weight is None else weight)
    np.testing.assert_allclose(found, (values * counted).sum() / counted.sum(), rtol=1e-4)


def test_a_mean_over_tokens_does_not_accumulate():
    term = Term(KLDivergence(1.0), over="tokens", name="kd")
    distiller = Distiller(student=language_model("student"), teacher=language_model("teacher"), terms=[term])
    with pytest.raises(ValueError, match=r"The terms \['kd'\] are means over the tokens.*Use over='examples'"):
        distiller.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=2))


@pytest.mark.case("D5")
def test_a_mask_over_positions_that_are_classes():
    def model(name):
        inputs = {
            "ids": keras.Input((6,), dtype="int32", name="ids"),
            "mask": keras.Input((6,), dtype="int32", name="mask"),
        }
        hidden = keras.layers.Embedding(10, 4)(inputs["ids"])
        return keras.Model(inputs, ops.squeeze(keras.layers.Dense(1)(hidden), -1), name=name)

    student, teacher = model("student"), model("teacher")
    mask = (np.arange(6) < np.array([6, 2, 4])[:, None]).astype("int32")
    x = {"ids": np.random.default_rng(0).integers(0, 10, (3, 6)), "mask": mask}
    distiller = Distiller(student=student, teacher=teacher, terms=[Term(KLDivergence(1.0), mask="mask", name="kd")])
    distiller.compile("sgd")
    expected = []
    for row in range(3):
        one = {key: value[row : row + 1] for key, value in x.items()}
        p, q = (softmax(each.predict(one, verbose=0)[0, mask[row] == 1]) for each in (teacher, student))
        expected.append((p * np.log(p / q)).sum())
    found = distiller.evaluate(x, verbose=0, return_dict=True)["kd_loss"]
    np.testing.assert_allclose(found, np.mean(expected), rtol=1e-4)
    assert np.isfinite(fitted(distiller, x)["loss"][0])


def test_positions_of_a_tap_and_of_a_function():
    student, teacher = segmenter(4, "student"), segmenter(4, "teacher")
    x = features(4, 16, 16, 3)
    of_tap = Term(Hint(), "block", "block", positions="score", name="tap")

    def scored(name):
        base = segmenter(4, name)
        score = keras.layers.Conv2D(1, 1, activation="sigmoid", name="score")(base.get_layer("block").output)
        return keras.Model(base.inputs, [base.output, score], name=name)

    teacher = scored("teacher")

    def largest(batch, teacher):
        return ops.max(teacher["block"], axis=-1) > 0

    of_function = Term(Hint(), "block", "block", positions=largest, name="function")
    distiller = Distiller(student=student, teacher=teacher, terms=[of_tap, of_function])
    distiller.compile(zero_rate_sgd())
    logs = fitted(distiller, x, batch_size=4)
    error = ((activations(student, "block", x) - activations(teacher, "block", x)) ** 2).mean(-1)
    for name, weight in (
        ("tap", activations(teacher, "score", x)[..., 0]),
        ("function", (activations(teacher, "block", x).max(-1) > 0).astype("float64")),
    ):
        expected = np.mean((error * weight).sum((1, 2)) / weight.sum((1, 2)))
        np.testing.assert_allclose(logs[f"{name}_loss"][0], expected, rtol=1e-5)
    with pytest.raises(ValueError, match="`positions` must be a tap, a function or None. Received: 3"):
        Term(Hint(), positions=3)
    with pytest.raises(ValueError, match="`over` must be 'examples' or 'tokens'. Received: 'words'"):
        Term(Hint(), over="words")


MAP, VECTOR, TOKENS = (4, 4, 4), (4,), (16, 4)
# Compare heads by tokens, or read layers of the models.
WITHOUT_MAPS = {"AttentionRelation", "AttentionScores", "Chunked"}
# Compare each side's own resolution, or pool both to the smaller one.
OWN_RESOLUTION = {
    *("AttentionTransfer", "FSP", "InterChannelCorrelation", "NeuronSelectivityTransfer", "SimilarityPreserving"),
}


def built(name, student, teacher):
    """Return the term of a loss and activations of the shapes, or None if the loss does not take them."""
    head = Resize() if len(student) == 3 and student != teacher and name not in OWN_RESOLUTION else None
    settings = {"ContrastiveRepresentation": {"examples": 6}}.get(name, SETTINGS.get(name, {}))
    try:
        term = Term(LOSSES[name](**settings), "tap", "tap", head)
        return term.build(Spec((None, *student), "float32", "Add"), Spec((None, *teacher), "float32", "Add"))
    except ValueError:
        return None


def resolution_cases():
    for name in sorted(set(LOSSES) - WITHOUT_MAPS):
        shape = next(shape for shape in (MAP, TOKENS, VECTOR) if built(name, shape, shape) is not None)
        for resolution in ("same", "half", "unknown") if shape == MAP else ("same",):
            for weights in ("none", "examples", "positions"):
                yield name, shape, resolution, weights


@pytest.mark.parametrize(("name", "shape", "resolution", "weights"), list(resolution_cases()))
def test_every_loss_at_every_resolution(name, shape, resolution, weights):
    teacher_shape = shape if resolution == "same" else (8, 8, 4)
    specs = [shape, teacher_shape] if resolution != "unknown" else [(None, None, 4)] * 2
    term = built(name, *specs)
    if term is None:
        pytest.skip("the loss needs a known resolution")
    student, teacher = features(6, *shape), features(6, *teacher_shape, seed=1)
    labels = np.arange(6) % 4
    if len(shape) > 1 and term.loss.needs_labels:
        labels = np.broadcast_to(labels.reshape(6, *[1] * (len(shape) - 1)), (6, *teacher_shape[:-1]))
    given = {
        "none": None,
        "examples": np.linspace(0.5, 2, 6, dtype="float32"),
        "positions": np.random.default_rng(3).uniform(0.5, 2, (6, 16, 16) if shape != TOKENS else (6, 16)),
    }[weights]
    batch = Batch(None, labels, index=np.arange(6))
    found = term.compare(student, teacher, batch._replace(sample_weight=given))

    # By NumPy: the resolution at which the loss compares, and the weights there.
    if resolution != "same" and name not in OWN_RESOLUTION:
        student = bilinear(student.astype("float64"), (8, 8)).astype("float32")
    of_positions, of_examples = None, given
    if weights == "positions":
        of_examples = given.mean(axis=tuple(range(1, given.ndim)))
        if shape == TOKENS:
            of_positions = given
        elif shape == MAP:
            of_positions = block_means(given, 16 // student.shape[1])
    of_positions = None if of_positions is None else of_positions.astype("float32")
    expected = np.array(term.loss.compare(student, teacher, batch._replace(position_weight=of_positions)))
    if of_examples is not None:
        expected = expected * of_examples
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-6)


def test_a_mean_takes_weights_of_another_resolution():
    values, weight = features(2, 4, 4), np.abs(features(2, 8, 8, seed=1))
    pooled = block_means(weight)
    expected = (values * pooled).sum((1, 2)) / pooled.sum((1, 2))
    np.testing.assert_allclose(mean_over_positions(values, weight), expected, rtol=1e-5)
