import re

import keras
import numpy as np
import pytest

from keras_distill import Distiller, Term, load_distiller
from keras_distill.heads import Fusion, Head
from keras_distill.heads.fusion import resize_nearest
from keras_distill.losses import HierarchicalContext, Hint
from tests.support.helpers import compiled, data, features, fitted, weights_of

STUDENT = [(2, 8, 6, 3), (2, 4, 3, 4), (2, 2, 1, 5)]
TEACHER = [(2, 8, 6, 6), (2, 4, 3, 7), (2, 3, 2, 8)]


def open_batch(shapes):
    return tuple((None, *shape[1:]) for shape in shapes)


def set_known_weights(head):
    """Set weights that the test can compute with, and return them by name."""
    for seed, weight in enumerate(head.weights):
        values = features(*weight.shape, seed=seed)
        weight.assign(np.abs(values) if "variance" in weight.path else values)
    return {"/".join(weight.path.split("/")[-2:]): weight.numpy() for weight in head.weights}


def reference(student, sizes, weights):
    """Transcription of the authors' forward pass, the deepest level first, with moving statistics."""

    def convolved(maps, kernel):
        height, width = maps.shape[1:3]
        border = kernel.shape[0] // 2
        padded = np.pad(maps, ((0, 0), (border, border), (border, border), (0, 0)))
        patches = [
            padded[:, i : i + height, j : j + width] @ kernel[i, j]
            for i, j in np.ndindex(kernel.shape[0], kernel.shape[1])
        ]
        return sum(patches)

    def normalized(maps, name):
        mean, variance, gamma, beta = (
            weights[f"{name}/{part}"] for part in ("moving_mean", "moving_variance", "gamma", "beta")
        )
        return (maps - mean) / np.sqrt(variance + 1e-5) * gamma + beta

    def interpolated(maps, size):
        rows, columns = (np.floor(np.arange(n) * m / n).astype(int) for n, m in zip(size, maps.shape[1:3]))
        return maps[:, rows][:, :, columns]

    results, residual = [], None
    for level in (2, 1, 0):
        x = normalized(convolved(student[level], weights[f"reduce_{level}/kernel"]), f"reduced_{level}")
        if residual is not None:
            residual = interpolated(residual, x.shape[1:3])
            scores = convolved(np.concatenate([x, residual], axis=-1), weights[f"attend_{level}/kernel"])
            attention = 1 / (1 + np.exp(-scores - weights[f"attend_{level}/bias"]))
            x = x * attention[..., 0:1] + residual * attention[..., 1:2]
        residual = interpolated(x, sizes[level])
        results.insert(0, normalized(convolved(residual, weights[f"expand_{level}/kernel"]), f"expanded_{level}"))
    return results


def test_matches_the_authors_code():
    head = Fusion(channels=4)
    head.build(open_batch(STUDENT), open_batch(TEACHER))
    weights = set_known_weights(head)
    student = tuple(features(*shape, seed=shape[-1]) for shape in STUDENT)
    fused = head(student)
    assert [tuple(maps.shape) for maps in fused] == TEACHER
    for maps, expected in zip(fused, reference(student, [shape[1:3] for shape in TEACHER], weights), strict=True):
        np.testing.assert_allclose(maps, expected, rtol=1e-3, atol=1e-4)


def test_known_neighbors():
    line = np.arange(4.0).reshape(1, 4, 1, 1)
    np.testing.assert_array_equal(resize_nearest(line, (6, 1))[0, :, 0, 0], [0, 0, 1, 2, 2, 3])
    np.testing.assert_array_equal(resize_nearest(line, (2, 2))[0, :, :, 0], [[0, 0], [2, 2]])


def test_each_level_depends_on_deeper_levels_only():
    head = Fusion()
    head.build(open_batch(STUDENT), open_batch(TEACHER))
    student = [features(*shape, seed=shape[-1]) for shape in STUDENT]
    before = head(tuple(student))
    student[1] = 2 * student[1]
    changed = [bool(np.any(np.asarray(a) != np.asarray(b))) for a, b in zip(before, head(tuple(student)))]
    assert changed == [True, True, False]


def test_residuals_have_the_channels_of_the_deepest_level_up_to_a_limit():
    for deepest, channels in ((5, 5), (600, 512)):
        head = Fusion()
        head.build(((None, 4, 4, 3), (None, 2, 2, deepest)), ((None, 4, 4, 3), (None, 2, 2, 3)))
        assert head.reduce[0].kernel.shape[-1] == channels


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        (((None, 4, 4, 3), (None, 2, 2, 3)), ((None, 4, 4, 3),)),
        (((None, 4, 4, 3), (None, 2, 2, 3)), (None, 4, 4, 3)),
        ((None, 4, None, 3), (None, 4, 4, 3)),
        ((None, 4, 3), (None, 4, 3)),
    ],
)
def test_other_shapes_raise(student, teacher):
    shapes = f"student shape {student}, teacher shape {teacher}"
    with pytest.raises(ValueError, match=f"{re.escape(shapes)}$"):
        Fusion().build(student, teacher)


@pytest.mark.parametrize("channels", [0, 2.0, True])
def test_non_integer_channels_raise(channels):
    with pytest.raises(ValueError, match="`channels` must be an integer >= 1 or None"):
        Fusion(channels)


LEVELS = ("b1", "b2", "b3")


def network(width, name):
    layers = [
        keras.layers.Conv2D(width * 2**index, 3, strides=2, padding="same", activation="relu", name=level)
        for index, level in enumerate(LEVELS)
    ]
    pooling = keras.layers.GlobalAveragePooling2D(keepdims=True, name="pooled")
    return keras.Sequential(
        [keras.Input((8, 8, 1)), *layers, pooling, keras.layers.Flatten(), keras.layers.Dense(3, name="logits")],
        name=name,
    )


def review_distiller(teacher, **options):
    levels = (*LEVELS, "pooled")
    term = Term(HierarchicalContext(), student=levels, teacher=levels, head=Fusion(), name="review")
    return compiled(
        Distiller(student=network(2, "student"), teacher=teacher, terms=[term]), keras.optimizers.Adam(0.01), **options
    )


def test_knowledge_review_trains_and_resumes_after_loading(tmp_path):
    x, y, teacher = features(24, 8, 8, 1), data()[1], network(4, "teacher")
    first = review_distiller(teacher, jit_compile=True)
    losses = fitted(first, x, y, epochs=20)["review_loss"]
    assert losses[-1] < 0.8 * losses[0]
    before = weights_of(first.heads[0])
    first.evaluate(x, y, verbose=0)
    for old, new in zip(before, weights_of(first.heads[0]), strict=True):
        np.testing.assert_array_equal(old, new)
    first.save(tmp_path / "d.keras")
    second = load_distiller(tmp_path / "d.keras", teacher)
    assert second.terms[0].student == (*LEVELS, "pooled")
    assert fitted(second, x, y) == fitted(first, x, y)


def test_errors_name_the_taps():
    models = network(2, "student"), network(4, "teacher")
    term = Term(HierarchicalContext(), ("b1", "b2"), ("b1", "b2", "b3"), Fusion())
    with pytest.raises(ValueError, match=r"'\('b1', 'b2'\)' with teacher '\('b1', 'b2', 'b3'\)'.*as many levels"):
        Distiller(student=models[0], teacher=models[1], terms=[term])
    with pytest.raises(ValueError, match=r"Hint compares one activation. Received: teacher=\('b1', 'b2'\)"):
        Term(Hint(), ("b1", "b2"), ("b1", "b2"), Fusion())


@keras.saving.register_keras_serializable("tests")
class Joined(Head):
    """Map the means of all levels to one vector."""

    takes_several = True

    def build(self, student_shape, teacher_shape):
        self.dense = keras.layers.Dense(teacher_shape[-1])
        self.dense.build((None, sum(shape[-1] for shape in student_shape)))

    def call(self, student):
        means = [keras.ops.mean(maps, axis=(1, 2)) for maps in student]
        return self.dense(keras.ops.concatenate(means, axis=-1))


def test_a_head_may_map_several_activations_to_one():
    x, y = features(24, 8, 8, 1), data()[1]
    term = Term(Hint(), LEVELS, "logits", Joined(), name="joined")
    distiller = compiled(Distiller(student=network(2, "student"), teacher=network(4, "teacher"), terms=[term]))
    losses = fitted(distiller, x, y, epochs=10)["joined_loss"]
    assert losses[-1] < losses[0]
