"""Functions of NumPy arrays as teachers."""

import numpy as np
import pytest

from keras_distill import Distiller
from keras_distill.cache import label, open_cache
from keras_distill.data.batch import Batch, split_inputs
from keras_distill.teachers import NumPyTeacher, as_teacher
from tests.support.helpers import mlp


@pytest.mark.case("B9")
@pytest.mark.parametrize(
    ("function", "received"),
    [
        (lambda x: [x[:, :3]], "1 arrays"),
        (lambda x: (x[:, :3], x), "2 arrays"),
        (lambda x: {"a": [x[:, :3]]}, "1 arrays"),
        (lambda x: x.mean(), r"shape \(\)"),
        (lambda x: x.mean(0), r"shape \(8,\)"),
    ],
)
def test_functions_that_return_no_row_for_each_example_raise(function, received):
    with pytest.raises(ValueError, match=f"one array with a row for each example.*two examples: {received}"):
        Distiller(student=mlp(), teacher=NumPyTeacher(function))


@pytest.mark.case("B9")
def test_rows_may_be_lists():
    teacher = NumPyTeacher(lambda x: x[:, :3].tolist())
    teacher.connect(["output"])
    Distiller(student=mlp(), teacher=teacher)


@pytest.mark.case("B9")
def test_a_function_of_texts(tmp_path):
    texts = np.array(["a", "bcd", ""])

    def lengths(x):
        return np.array([[len(text.decode()), 2.0] for text in x], "float32")

    label(NumPyTeacher(lengths), (texts,), tmp_path, verbose=0)
    stored = split_inputs(open_cache(tmp_path).load(texts))[1]["output"]
    np.testing.assert_array_equal(stored, [[1, 2], [3, 2], [0, 2]])


@pytest.mark.case("B9")
def test_a_plain_function_called_predict_proba(tmp_path):
    def predict_proba(x):
        return np.full((len(x), 2), [0.25, 0.75])

    assert as_teacher(predict_proba).name == "predict_proba"
    label(predict_proba, (np.ones((4, 3)),), tmp_path, verbose=0)
    stored = split_inputs(open_cache(tmp_path).load(np.ones((4, 3))))[1]["output"]
    np.testing.assert_allclose(stored, np.log([[0.25, 0.75]] * 4), rtol=1e-6)


def test_activations_outside_of_a_graph():
    teacher = NumPyTeacher(lambda x: x[:, :3] * 2)
    teacher.connect(["output"])
    x = np.arange(8.0, dtype="float32").reshape(1, 8)
    np.testing.assert_array_equal(teacher.activations(Batch(x))["output"], x[:, :3] * 2)
