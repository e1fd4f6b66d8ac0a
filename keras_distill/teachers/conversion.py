"""Conversion of models and functions to teachers."""

from typing import Any

from keras_distill.teachers.base import Teacher
from keras_distill.teachers.model import ModelTeacher
from keras_distill.teachers.numpy_teacher import NumPyTeacher


def as_teacher(teacher: Any) -> Teacher:
    """Return a `Teacher` unchanged and wrap anything else in a `ModelTeacher`, or a `NumPyTeacher`.

    Args:
        teacher: A `Teacher`, a `keras.Model`, a Keras layer or a function of the inputs. A method or function
            called `predict_proba`, as in scikit-learn, is a function of NumPy arrays that returns probabilities.

    Raises:
        ValueError: If `teacher` is none of these.
    """
    if isinstance(teacher, Teacher):
        return teacher
    if getattr(teacher, "__name__", None) == "predict_proba":
        # A plain function of this name belongs to no object.
        owner = [type(teacher.__self__).__name__] if hasattr(teacher, "__self__") else []
        return NumPyTeacher(teacher, from_probabilities=True, name=".".join([*owner, "predict_proba"]))
    return ModelTeacher(teacher)
