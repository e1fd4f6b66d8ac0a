"""`Distiller`: arguments, summary, trainable variables and export."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import OUTPUT, Balance, Distiller, Term
from keras_distill.data.batch import Batch
from keras_distill.heads import Resize
from keras_distill.losses import (
    FSP,
    AttentionRelation,
    ContrastiveRepresentation,
    Hint,
    KLDivergence,
    MultiLevelKD,
)
from keras_distill.schedules import Linear
from keras_distill.teachers import CachedTeacher, ModelTeacher, Teacher
from tests.support.helpers import compiled, data, features, fitted, mlp


def test_summary_lists_terms_with_heads_and_shapes():
    terms = [Term(KLDivergence()), Term(Hint(), "features", "features", head="auto")]
    lines = []
    Distiller(student=mlp(8), teacher=mlp(16, name="teacher"), terms=terms).summary(
        print_fn=lambda line, **_: lines.append(line)
    )
    text = "\n".join(lines)
    assert "Term 'kl_divergence' (KLDivergence): student 'output' (None, 3) -> no head" in text
    assert "student 'features' (None, 8) -> Projection -> teacher 'features' (None, 16)" in text


def test_trainable_variables_are_those_of_student_and_heads():
    student, teacher = mlp(8), mlp(16, name="teacher")
    distiller = Distiller(student=student, teacher=teacher, terms=[Term(Hint(), "features", "features", head="auto")])
    expected = [*student.trainable_variables, *distiller.heads[0].trainable_variables]
    assert [id(v) for v in distiller.trainable_variables] == [id(v) for v in expected]


def test_models_with_several_inputs():
    def model(width, name):
        left, right = keras.Input((8,), name="left"), keras.Input((4,), name="right")
        joined = keras.layers.Concatenate()([left, right])
        return keras.Model(
            {"left": left, "right": right}, keras.layers.Dense(3)(keras.layers.Dense(width)(joined)), name=name
        )

    x = {"left": features(24, 8), "right": features(24, 4, seed=1)}
    student, teacher = model(4, "student"), model(8, "teacher")
    history = fitted(
        compiled(Distiller(student=student, teacher=teacher, terms=[Term(KLDivergence())])), x, data()[1], epochs=3
    )
    assert history["loss"][-1] < history["loss"][0]
    only_left = ModelTeacher(mlp(name="left_teacher"), inputs=lambda inputs: inputs["left"])
    fitted(compiled(Distiller(student=student, teacher=only_left, terms=[Term(KLDivergence())])), x, data()[1])


class Subclassed(keras.Model):
    def __init__(self, name):
        super().__init__(name=name)
        self.dense = keras.layers.Dense(3, name="dense")

    def call(self, inputs):
        return self.dense(inputs)


def test_inputs_are_required_only_for_unknown_input_shapes():
    terms = [Term(KLDivergence())]
    with pytest.raises(ValueError, match="The input shapes of 'student' and 'teacher' are unknown. Pass `inputs=`"):
        Distiller(student=Subclassed("student"), teacher=Subclassed("teacher"), terms=terms)
    Distiller(student=Subclassed("student"), teacher=mlp(name="teacher"), terms=terms)
    built = Subclassed("student")
    built(features(2, 8))
    Distiller(student=built, teacher=Subclassed("teacher"), terms=terms)
    for inputs in (features(2, 8), keras.Input((8,)), tf.TensorSpec((None, 8))):
        assert Distiller(
            student=Subclassed("student"), teacher=Subclassed("teacher"), terms=terms, inputs=inputs
        ).student.built


@pytest.mark.parametrize("inputs", [(8,), 8, "x"])
def test_invalid_inputs_raise(inputs):
    with pytest.raises(ValueError, match="`inputs` must be an example batch"):
        Distiller(
            student=Subclassed("student"), teacher=Subclassed("teacher"), terms=[Term(KLDivergence())], inputs=inputs
        )


@pytest.mark.parametrize("student", [None, "student", keras.layers.Dense(3)])
def test_invalid_student_raises(student):
    with pytest.raises(ValueError, match="`student` must be a keras.Model"):
        Distiller(student=student, teacher=mlp(name="teacher"), terms=[Term(KLDivergence())])


@pytest.mark.parametrize("teacher", [3, "teacher"])
def test_invalid_teacher_raises(teacher):
    with pytest.raises(ValueError, match="A teacher must be a keras.Model"):
        Distiller(student=mlp(), teacher=teacher, terms=[Term(KLDivergence())])


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (Term(Hint(), "featurs", "features"), "No layer called 'featurs' in 'student'. Closest: .'features'"),
        (
            Term(Hint(), "features", "blocks/features"),
            "No layer called 'blocks/features' in 'teacher'. Closest: .'features'",
        ),
        (Term(Hint(), "features[0]", "features"), "matches no entry of 'student'"),
    ],
)
def test_unknown_taps_raise_in_the_constructor(term, message):
    with pytest.raises(ValueError, match=message):
        Distiller(student=mlp(), teacher=mlp(name="teacher"), terms=[term])


def test_layer_tap_of_a_function_raises():
    with pytest.raises(ValueError, match=r"A function has no layers to tap. Received: taps \['features'\]"):
        Distiller(student=mlp(), teacher=lambda x: x, terms=[Term(Hint(), "features", "features")])


@pytest.mark.parametrize(
    ("loss", "warned"),
    [
        ("sparse_categorical_crossentropy", True),
        (keras.losses.SparseCategoricalCrossentropy(), True),
        (keras.losses.SparseCategoricalCrossentropy(from_logits=True), False),
        ("mse", False),
        (None, False),
    ],
)
def test_cross_entropy_without_from_logits_warns(loss, warned):
    distiller = Distiller(student=mlp(), teacher=mlp(name="teacher"), terms=[Term(KLDivergence())])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        distiller.compile("sgd", loss)
    assert [str(w.message) for w in caught if "from_logits=True" in str(w.message)] != [] if warned else not caught


def test_cross_entropy_after_a_softmax_does_not_warn():
    student = mlp()
    student.add(keras.layers.Softmax())
    distiller = Distiller(student=student, teacher=mlp(name="teacher"), terms=[Term(KLDivergence(), student="logits")])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        distiller.compile("sgd", "sparse_categorical_crossentropy")


def test_supervised_weight_accepts_a_schedule():
    distiller = Distiller(
        student=mlp(),
        teacher=mlp(16, name="teacher"),
        terms=[Term(Hint(), weight=1e-20)],
        supervised_weight=Linear(0.0, 3.0, 3),
    )
    logged = fitted(compiled(distiller, keras.optimizers.SGD(0.0)), *data(8), epochs=4)
    weighted = np.multiply(logged["supervised_loss"], [0, 1, 2, 3])
    np.testing.assert_allclose(logged["loss"], weighted, rtol=1e-5, atol=1e-12)


def test_supervised_weight_does_not_scale_regularization_losses():
    student = mlp(kernel_regularizer=keras.regularizers.L2(1.0))
    penalty = float(tf.reduce_sum(student.get_layer("features").kernel ** 2))
    distiller = Distiller(
        student=student, teacher=mlp(16, name="teacher"), terms=[Term(Hint(), weight=1e-20)], supervised_weight=0
    )
    logged = fitted(compiled(distiller, keras.optimizers.SGD(0.0)), *data(8))
    np.testing.assert_allclose(logged["loss"], [penalty], rtol=1e-5)


def test_heads_run_in_training_mode_in_fit():
    head = keras.layers.Dropout(0.5, seed=1)
    distiller = compiled(
        Distiller(student=mlp(), teacher=mlp(name="teacher"), terms=[Term(Hint(), head=head)]),
        keras.optimizers.SGD(0.0),
    )
    trained = fitted(distiller, *data())["hint_loss"][0]
    tested = [float(distiller.evaluate(*data(), verbose=0, return_dict=True)["hint_loss"]) for _ in range(2)]
    assert tested[0] == tested[1] != pytest.approx(trained, rel=1e-3)


def test_export_saves_the_student(tmp_path):
    distiller = compiled(Distiller(student=mlp(), teacher=mlp(16, name="teacher"), terms=[Term(KLDivergence())]))
    distiller.export(tmp_path / "exported", verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "exported"))
    served = loaded.serve(features(4, 8))
    np.testing.assert_allclose(served, distiller.predict(features(4, 8), verbose=0), rtol=1e-5)


def test_custom_teacher():
    class Constant(Teacher):
        steps = 0

        def connect(self, taps):
            assert taps == [OUTPUT]

        def activations(self, batch):
            return {OUTPUT: tf.ones((tf.shape(batch.inputs)[0], 3))}

        def after_step(self, student):
            self.steps += 1

    teacher = Constant()
    fitted(compiled(Distiller(student=mlp(), teacher=teacher, terms=[Term(KLDivergence())]), run_eagerly=True), *data())
    assert teacher.steps == 3


def test_missing_stored_activations_raise():
    message = r"The activations \['features'\] were not stored. .*taps=\['output', 'features'\]"
    with pytest.raises(ValueError, match=message):
        Distiller(
            student=mlp(), teacher=CachedTeacher({OUTPUT: features(4, 3)}), terms=[Term(Hint(), "features", "features")]
        )
    distiller = compiled(
        Distiller(student=mlp(), teacher=CachedTeacher({OUTPUT: features(4, 3)}), terms=[Term(KLDivergence())])
    )
    with pytest.raises(ValueError, match="came without the teacher's activations"):
        fitted(distiller, *data())


def test_order_of_batch_fields():
    assert Batch._fields[:5] == ("inputs", "labels", "sample_weight", "cached", "step")


@pytest.mark.case("A12")
@pytest.mark.parametrize("suffix", ["", "_logits"])
def test_a_term_named_like_an_output_raises(suffix):
    """Keras logs the key of an output, whatever the name of its layer."""
    inputs = keras.Input((4,))
    outputs = {name: keras.layers.Dense(3, name=name + suffix)(inputs) for name in ("start", "end")}
    student, teacher = keras.Model(inputs, outputs), keras.models.clone_model(keras.Model(inputs, outputs))

    def distiller(name):
        terms = [Term(KLDivergence(), "output[start]", "output[start]", name=name)]
        return Distiller(student=student, teacher=teacher, terms=terms)

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    losses = {"start": loss, "end": loss}
    with pytest.raises(ValueError, match=r"The logs would have \['start_loss'\] twice.*Rename the term"):
        distiller("start").compile("sgd", losses)
    with pytest.raises(ValueError, match="twice"):
        distiller("start").compile("sgd", loss)
    distiller("start").compile("sgd")
    distiller("start").compile("sgd", {"end": loss})
    x, y = np.ones((2, 4), "float32"), {"start": np.array([0, 1]), "end": np.array([2, 0])}
    renamed = distiller("start_kd")
    renamed.compile("sgd", losses)
    logs = renamed.fit(x, y, verbose=0).history
    assert {"start_loss", "end_loss", "start_kd_loss", "supervised_loss", "loss"} == set(logs)
    np.testing.assert_allclose(logs["supervised_loss"], logs["start_loss"][0] + logs["end_loss"][0], rtol=1e-6)


def test_a_function_may_be_called_supervised():
    def supervised(student, teacher):
        return keras.ops.mean(keras.ops.abs(student - teacher), axis=-1)

    x, y = data()
    student, teacher = mlp(), mlp(name="teacher")
    logits, targets = student.predict(x, verbose=0), teacher.predict(x, verbose=0)
    logs = fitted(
        compiled(Distiller(student=student, teacher=teacher, terms=supervised), keras.optimizers.SGD(0.0)), x, y
    )
    np.testing.assert_allclose(logs["supervised_2_loss"][0], np.abs(logits - targets).mean(), rtol=1e-5)
    expected = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(y, logits)
    np.testing.assert_allclose(logs["supervised_loss"][0], expected, rtol=1e-5)


def test_the_supervised_weight_is_a_number_or_a_schedule():
    with pytest.raises(ValueError, match="`supervised_weight` must be a finite number >= 0 or a schedule"):
        Distiller(student=mlp(), teacher=mlp(name="teacher"), supervised_weight=Balance(0.1))


def test_logits_of_another_resolution_name_the_head_that_resizes_them():
    def segmenter(size, name):
        return keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(5, 3, 8 // size, "same")], name=name)

    models = {"student": segmenter(4, "student"), "teacher": segmenter(8, "teacher")}
    with pytest.raises(ValueError, match=r"\(None, 4, 4, 5\).*Add head=keras_distill.heads.Resize\(\)"):
        Distiller(**models, terms=[Term(KLDivergence())])
    fitted(compiled(Distiller(**models, terms=[Term(KLDivergence(), head=Resize())]), None, None), features(4, 8, 8, 3))


@pytest.mark.parametrize("loss", [AttentionRelation(2), FSP()])
def test_more_than_a_pair_raises(loss):
    taps = ("features", "logits", "features")
    with pytest.raises(ValueError, match="compares one activation or a pair. Received: 3"):
        Distiller(student=mlp(), teacher=mlp(name="teacher"), terms=[Term(loss, taps, taps)])


def test_arguments_that_are_no_schedules_or_out_of_range_raise():
    with pytest.raises(ValueError, match="`temperatures` must be a finite number > 0. Received: <"):
        MultiLevelKD([Linear(1.0, 2.0, 10)])
    with pytest.raises(ValueError, match="`momentum` must be a finite number >= 0 and <= 1 or a schedule"):
        ContrastiveRepresentation(momentum=1.5)


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        ({"distillation_losses": "mse"}, r"`distillation_losses` by `terms=\[Term"),
        ({"student_loss_weight": 0.5}, "`student_loss_weight` by `supervised_weight`"),
    ],
)
def test_arguments_of_keras_distillation_are_translated(arguments, advice):
    with pytest.raises(TypeError, match=advice):
        Distiller(student=mlp(), teacher=mlp(16), **arguments)


def test_arguments_of_the_keras_example_are_translated():
    distiller = Distiller(student=mlp(), teacher=mlp(16))
    with pytest.raises(TypeError, match="`student_loss_fn` by `loss` of `compile`; `alpha` by `supervised_weight"):
        distiller.compile("adam", student_loss_fn="mse", alpha=0.1)
