import keras
import numpy as np
import pytest

from keras_distill import Distiller, Term, mapping
from keras_distill.losses import Hint
from tests.support.helpers import compiled, crossentropy, features, fitted


def names(count, prefix="layer"):
    return [f"{prefix}_{number}" for number in range(1, count + 1)]


def deep(depth, name, width=8):
    """Return a model with blocks in a nested backbone."""
    inputs = keras.Input((width,))
    x = inputs
    for number in range(1, depth + 1):
        x = keras.layers.Dense(width, activation="tanh", name=f"block_{number}")(x)
    backbone = keras.Model(inputs, x, name="backbone")
    return keras.Sequential([keras.Input((width,)), backbone, keras.layers.Dense(3, name="top")], name=name)


def test_uniform_pairs_six_layers_with_every_second_of_twelve():
    # As in TinyBERT: layer i with layer 2i.
    numbers = [t for _, t in mapping.uniform(names(6), names(12))]
    assert numbers == ["layer_2", "layer_4", "layer_6", "layer_8", "layer_10", "layer_12"]
    assert [s for s, _ in mapping.uniform(names(6), names(12))] == names(6)


@pytest.mark.parametrize(("students", "teachers"), [(1, 6), (3, 6), (4, 12), (5, 5)])
def test_uniform_is_layer_i_times_n_over_m(students, teachers):
    expected = [(f"s_{i}", f"t_{i * teachers // students}") for i in range(1, students + 1)]
    assert mapping.uniform(names(students, "s"), names(teachers, "t")) == expected


def test_every_does_not_use_further_teacher_layers():
    # PKD-Skip: five layers are paired with 2, 4, 6, 8 and 10 of 12.
    assert [t for _, t in mapping.every(names(5), names(12), 2)] == [f"layer_{i}" for i in (2, 4, 6, 8, 10)]


def test_last_layers():
    assert mapping.last(names(3, "s"), names(6, "t")) == [("s_1", "t_4"), ("s_2", "t_5"), ("s_3", "t_6")]
    assert mapping.last(names(3, "s"), names(6, "t"), count=1) == [("s_3", "t_6")]


@pytest.mark.parametrize("pairs", [[(0, 1), (-1, -1)], {0: 1, -1: -1}])
def test_by_hand(pairs):
    assert mapping.by_hand(names(3, "s"), names(6, "t"), pairs) == [("s_1", "t_2"), ("s_3", "t_6")]


def test_layers_are_found_by_pattern_in_the_models_order():
    model = deep(11, "student")
    paths = [f"backbone/block_{number}" for number in range(1, 12)]
    assert mapping.layers(model, "block_*") == mapping.layers(model, "backbone/block_*") == paths
    assert mapping.layers(model, "top") == ["top"]


def test_a_star_does_not_match_a_slash():
    # "b*" matches "backbone", and "block_1" at the end of a path, but not "backbone/block_1" as a whole.
    assert mapping.layers(deep(2, "student"), "b*") == ["backbone", "backbone/block_1", "backbone/block_2"]


def test_by_name_pairs_layers_with_equal_text_in_place_of_stars():
    student, teacher = deep(2, "student"), deep(4, "teacher")
    expected = [("backbone/block_1", "backbone/block_1"), ("backbone/block_2", "backbone/block_2")]
    assert mapping.by_name(student, teacher, "block_*") == expected
    assert mapping.by_name(student, teacher, "backbone/block_*", "block_*") == expected
    assert mapping.by_name(student, teacher, "top") == [("top", "top")]


def test_pairs_become_terms_that_train():
    student, teacher = deep(2, "student"), deep(4, "teacher")
    pairs = mapping.uniform(mapping.layers(student, "block_*"), mapping.layers(teacher, "block_*"))
    terms = [Term(Hint(), s, t, weight=10.0, name=f"layer_{i}") for i, (s, t) in enumerate(pairs)]
    x = features(32, 8)
    history = fitted(
        compiled(Distiller(student=student, teacher=teacher, terms=terms), loss=crossentropy()),
        x,
        np.arange(32) % 3,
        epochs=5,
    )
    assert history["layer_0_loss"][-1] < history["layer_0_loss"][0]
    assert history["layer_1_loss"][-1] < history["layer_1_loss"][0]


def test_by_name_raises_for_ambiguous_layers():
    inputs = keras.Input((8,))
    towers = [deep(2, "tower")(inputs), keras.models.clone_model(deep(2, "other"))(inputs)]
    student = keras.Model(inputs, towers, name="student")
    with pytest.raises(
        ValueError, match="Several layers of 'student' match 'block_1' with the same text.*tower.*other"
    ):
        mapping.by_name(student, deep(2, "teacher"), "block_1")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mapping.uniform(names(5), names(12)), "multiple of .* Received: 5 student layers, 12 teacher layers"),
        (lambda: mapping.uniform(names(12), names(6)), "multiple of .* Received: 12 student layers, 6 teacher layers"),
        (lambda: mapping.every(names(5), names(9), 2), "need 10 teacher layers. Received: 9"),
        (lambda: mapping.every(names(5), names(9), 0), "`step` must be an integer >= 1. Received: 0"),
        (
            lambda: mapping.last(names(5), names(4)),
            "at least 5 layers each. Received: 5 student layers, 4 teacher layers",
        ),
        (lambda: mapping.last(names(5), names(6), 0), "`count` must be an integer >= 1. Received: 0"),
        (lambda: mapping.by_hand(names(2), names(4), [(0, 1), (2, 3)]), r"2 student layers.*pairs \[\(2, 3\)\]"),
        (lambda: mapping.by_hand(names(2), names(4), []), r"pairs \[\]"),
        (lambda: mapping.uniform("layer_*", names(4)), "`student_layers` must be a list of layer paths.*'layer_"),
        (lambda: mapping.uniform(names(2), []), "`teacher_layers` must be a list of layer paths"),
        (lambda: mapping.layers(deep(2, "student"), "stage_*"), "No layer of 'student' matches 'stage_.'.*backbone"),
        (lambda: mapping.by_name(deep(2, "student"), deep(2, "teacher"), "block_*", "t*"), "has a counterpart"),
        (lambda: mapping.by_name(deep(2, "student"), deep(2, "teacher"), "*_1", "block_*"), "has a counterpart"),
    ],
)
def test_invalid_mappings_raise(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_by_importance_keeps_the_order():
    teacher_layers = ["t0", "t1", "t2", "t3"]
    pairs = [("s0", "t1"), ("s1", "t3")]
    assert mapping.by_importance(["s0", "s1"], teacher_layers, [0.1, 0.2, 0.1, 0.4]) == pairs
    assert mapping.by_importance(["s0", "s1"], teacher_layers, {"t3": 2, "t2": 0, "t1": 1, "t0": 0, "u": 9}) == pairs
    # The first layers are taken of those with equal scores.
    assert mapping.by_importance(["s0"], teacher_layers, [1, 1, 1, 1]) == [("s0", "t0")]


def test_by_importance_rejects_what_does_not_fit():
    with pytest.raises(ValueError, match=r"no entry for the teacher layers \['t1'\]"):
        mapping.by_importance(["s0"], ["t0", "t1"], {"t0": 1.0})
    for scores in ([1.0], [1.0, float("nan")]):
        with pytest.raises(ValueError, match="must be 2 numbers"):
            mapping.by_importance(["s0"], ["t0", "t1"], scores)
    with pytest.raises(ValueError, match="at least as many layers"):
        mapping.by_importance(["s0", "s1"], ["t0"], [1.0])
