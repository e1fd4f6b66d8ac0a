"""Classification that scores the features of a model, not its logits."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_distill.experiment.classification import Classification
from keras_distill.experiment.score import Score
from keras_distill.models.specs import symbolic_inputs

# Rows of similarities that are in memory at once.
_ROWS = 1024


class LinearProbe(Classification):
    """Linear classification of a model's features. The score is the accuracy, cross-validated on the evaluation split.

    For students that are trained without labels, and for features of a foundation model. The evaluation split is
    divided into folds; the class of an example is predicted by a ridge classifier on the standardized features, which
    the examples of the other folds have trained. The student's own logits are not evaluated. A baseline is trained as
    in `Classification`, and its features are scored. The agreement with the teacher is the fraction of the examples
    whose nearest neighbor, by cosine similarity, is the same for both. Needs scikit-learn, which the extra `report`
    installs.

    Args:
        features: Name of the layer whose output is scored, shape `[examples, width]`, in students and teacher.
        folds: Number of folds, >= 2. Defaults to 5.
        one_hot: As for `Classification`. Defaults to False.

    Raises:
        ValueError: When the experiment starts, if a model has no such layer, or its output is not a vector.

    Example:

    >>> from keras_distill.experiment import LinearProbe
    >>> features = np.array([[0.1, 1], [2, 0.9], [0, 1.1], [2.1, 1]] * 5)
    >>> LinearProbe("pooled").evaluate(features, np.array([0, 1, 0, 1] * 5))
    1.0
    """

    score = Score("linear probe accuracy")
    same_outputs = False

    def __init__(self, features: str, folds: int = 5, one_hot: bool = False):
        super().__init__(one_hot)
        self.features, self.folds = features, folds

    def check(self, model: keras.Model, labels: Any) -> None:
        super().check(model, labels)
        self.predictor(model)

    def predictor(self, model: keras.Model) -> keras.Model:
        names = [layer.name for layer in model.layers]
        if self.features not in names:
            raise ValueError(
                f"'{model.name}' has no layer '{self.features}', whose output {type(self).__name__} scores. Its layers "
                f"are {names}."
            )
        output = model.get_layer(self.features).output
        if keras.tree.is_nested(output) or len(output.shape) != 2:
            raise ValueError(
                f"{type(self).__name__} scores vectors. The output of '{self.features}' in '{model.name}' has the "
                f"shape {getattr(output, 'shape', None)}. Choose a layer after the pooling."
            )
        return keras.Model(symbolic_inputs(model), output, name=model.name)

    def records(self, outputs: Any, labels: Any) -> np.ndarray:
        """Return 1 where the class is predicted by a classifier that has not seen the example, else 0."""
        from sklearn.linear_model import RidgeClassifier
        from sklearn.model_selection import KFold, cross_val_predict

        features, indices = np.asarray(outputs, "float64"), self._indices(labels)
        deviation = features.std(axis=0)
        features = (features - features.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)
        # The order of the examples may be that of the classes.
        folds = KFold(self.folds, shuffle=True, random_state=0)
        return (cross_val_predict(RidgeClassifier(), features, indices, cv=folds) == indices).astype(float)

    def agreement(self, outputs: Any, teacher_outputs: Any) -> float:
        return float(np.mean(nearest_neighbors(outputs) == nearest_neighbors(teacher_outputs)))

    def per_class(self, outputs: Any, labels: Any) -> np.ndarray | None:
        return None

    def confusion(self, outputs: Any, labels: Any) -> np.ndarray | None:
        return None

    def least_confident(self, teacher_outputs: Any, labels: Any) -> Sequence[int]:
        return []


class Retrieval(LinearProbe):
    """Retrieval of images of the same class by a model's features. The score is recall@1.

    An example counts as correct if its nearest neighbor among the other examples of the evaluation split, by cosine
    similarity, has its class. Otherwise as `LinearProbe`.

    Args:
        features: As for `LinearProbe`.
        one_hot: As for `Classification`. Defaults to False.

    Raises:
        ValueError: As for `LinearProbe`.

    Example:

    >>> from keras_distill.experiment import Retrieval
    >>> Retrieval("pooled").evaluate(np.array([[1, 0], [2, 0.1], [0, 1], [1, 0.2]]), np.array([0, 0, 1, 1]))
    0.5
    """

    score = Score("recall@1")

    def __init__(self, features: str, one_hot: bool = False):
        super().__init__(features, one_hot=one_hot)

    def records(self, outputs: Any, labels: Any) -> np.ndarray:
        """Return 1 where the nearest other example has the same class, else 0."""
        indices = self._indices(labels)
        return (indices[nearest_neighbors(outputs)] == indices).astype(float)


def nearest_neighbors(features: Any) -> np.ndarray:
    """Return the index of the most similar other example for each example, by cosine similarity.

    Args:
        features: Shape `[examples, width]`, at least two examples.
    """
    features = np.asarray(features, "float32")
    rows = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    found = []
    for start in range(0, len(rows), _ROWS):
        similarity = rows[start : start + _ROWS] @ rows.T
        own = np.arange(len(similarity))
        similarity[own, start + own] = -np.inf
        found.append(similarity.argmax(axis=1))
    return np.concatenate(found)
