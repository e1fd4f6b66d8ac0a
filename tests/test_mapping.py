import keras
import numpy as np
import pytest

from keras_distill import Distiller, Term, mapping
from keras_distill.losses import Hint
from tests.support.helpers import compiled, crossentropy, features, fitted


def names(count, prefix="layer"):
    return [f"{prefix}_{number}" for number in range(1, count + 1)]


def deep(depth, name, width=8):
    """Blocks in a nested model, as a backbone has them."""
    inputs = keras.Input((width,))
    x = inputs
    for number in range(1, depth + 1):
        x = keras.layers.Dense(width, activation="tanh", name=f"block_{number}")(x)
    backbone = keras.Model(inputs, x, name="backbone")
    return keras.Sequential([keras.Input((width,)), backbone, keras.layers.Dense(3, name="top")], name=name)


def test_six_layers_learn_from_every_second_of_twelve():
    # As in TinyBERT: layer i like layer 2i.
    numbers = [t for _, t in mapping.uniform(names(6), names(12))]
    assert numbers == ["layer_2", "layer_4", "layer_6", "layer_8", "layer_10", "layer_12"]
    assert [s for s, _ in mapping.uniform(names(6), names(12))] == names(6)


@pytest.mark.parametrize(("students", "teachers"), [(1, 6), (3, 6), (4, 12), (5, 5)])
def test_uniform_is_layer_i_times_n_over_m(students, teachers):
    expected = [(f"s_{i}", f"t_{i * teachers // students}") for i in range(1, students + 1)]
    assert mapping.uniform(names(students, "s"), names(teachers, "t")) == expected


def test_every_leaves_the_teachers_last_layers_out():
    # PKD-Skip: five layers learn from 2, 4, 6, 8 and 10 of 12.
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


def test_layers_by_pattern_hold_what_a_star_may_stand_for():
    # A star stays within one name: "b*" is no way to reach into "backbone".
    assert mapping.layers(deep(2, "student"), "b*") == ["backbone", "backbone/block_1", "backbone/block_2"]


def test_by_name_pairs_what_the_stars_agree_in():
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


def test_layers_that_read_alike_cannot_be_paired_by_name():
    inputs = keras.Input((8,))
    towers = [deep(2, "tower")(inputs), keras.models.clone_model(deep(2, "other"))(inputs)]
    student = keras.Model(inputs, towers, name="student")
    with pytest.raises(ValueError, match="Several layers of 'student' read alike: .*tower.*other"):
        mapping.by_name(student, deep(2, "teacher"), "block_1")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: mapping.uniform(names(5), names(12)), "5 student layers cannot be spread evenly over 12 teacher"),
        (lambda: mapping.uniform(names(12), names(6)), "12 student layers cannot be spread evenly over 6 teacher"),
        (lambda: mapping.every(names(5), names(9), 2), "ask for 10, but there are 9"),
        (lambda: mapping.every(names(5), names(9), 0), "`step` must be 1 or more. Received: 0"),
        (lambda: mapping.last(names(5), names(4)), "no 5 last layers in both models: the student has 5, the teacher 4"),
        (lambda: mapping.last(names(5), names(6), 0), "no 0 last layers"),
        (lambda: mapping.by_hand(names(2), names(4), [(0, 1), (2, 3)]), r"2 student layers.*pairs \[\(2, 3\)\]"),
        (lambda: mapping.by_hand(names(2), names(4), []), r"pairs \[\]"),
        (lambda: mapping.uniform("layer_*", names(4)), "`student_layers` must be a list of paths.*'layer_"),
        (lambda: mapping.uniform(names(2), []), "`teacher_layers` must be a list of paths"),
        (lambda: mapping.layers(deep(2, "student"), "stage_*"), "No layer of 'student' reads like 'stage_.'.*backbone"),
        (lambda: mapping.by_name(deep(2, "student"), deep(2, "teacher"), "block_*", "t*"), "has a counterpart"),
        (lambda: mapping.by_name(deep(2, "student"), deep(2, "teacher"), "*_1", "block_*"), "has a counterpart"),
    ],
)
def test_what_cannot_be_mapped_is_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call()
