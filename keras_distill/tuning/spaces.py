"""Ready-made search spaces: functions that request a value from `keras_tuner.HyperParameters`.

```python
def terms(hp):
    return [Term(KLDivergence(spaces.temperature(hp)), weight=1 - spaces.alpha(hp))]
```

Repeated calls in the same trial return the same value. The default values, which
`hypermodel.build(keras_tuner.HyperParameters())` uses, are those of the literature.
"""

from collections.abc import Sequence

import keras
import keras_tuner

from keras_distill import mapping


def temperature(hp: keras_tuner.HyperParameters, low: float = 1.0, high: float = 16.0, default: float = 1.0) -> float:
    """Return a softmax temperature, sampled on a logarithmic scale.

    Args:
        hp: Hyperparameters of the trial.
        low: Lower end of the range, > 0. Defaults to 1.
        high: Upper end of the range. Defaults to 16.
        default: Default value. Defaults to 1, that of `KLDivergence`.

    Returns:
        Unitless.

    Example:

    >>> import keras_tuner
    >>> from keras_distill.tuning import spaces
    >>> spaces.temperature(keras_tuner.HyperParameters())
    1.0
    """
    return hp.Float("temperature", low, high, sampling="log", default=default)


def alpha(hp: keras_tuner.HyperParameters, low: float = 0.0, high: float = 0.9, default: float = 0.5) -> float:
    """Return the weight of the supervised loss; the soft targets get `1 - alpha`.

    Args:
        hp: Hyperparameters of the trial.
        low: Lower end of the range, >= 0. Defaults to 0.
        high: Upper end of the range, < 1. Defaults to 0.9.
        default: Default value. Defaults to 0.5, equal weights.

    Returns:
        Unitless.
    """
    return hp.Float("alpha", low, high, default=default)


def weight(hp: keras_tuner.HyperParameters, name: str, default: float, spread: float = 10.0) -> float:
    """Return the weight of a term, sampled on a logarithmic scale around the weight of its paper.

    Args:
        hp: Hyperparameters of the trial.
        name: Name of the term; the hyperparameter is named `<name>_weight`.
        default: Weight of the paper, > 0; the default value.
        spread: Factor of the range, from `default / spread` to `default * spread`; > 1. Defaults to 10.

    Returns:
        Unitless.
    """
    return hp.Float(f"{name}_weight", default / spread, default * spread, sampling="log", default=default)


def width(hp: keras_tuner.HyperParameters, low: int, high: int, default: int | None = None) -> int:
    """Return the width of a student: `low`, 2 `low`, 4 `low` and so on up to `high`.

    Args:
        hp: Hyperparameters of the trial.
        low: Smallest width, >= 1.
        high: Largest width.
        default: Default value. Defaults to None, `low`.

    Returns:
        Number of units or channels.
    """
    # KerasTuner's grid returns a logarithmic integer as a float.
    return int(hp.Int("width", low, high, step=2, sampling="log", default=default))


def depth(hp: keras_tuner.HyperParameters, low: int, high: int, default: int | None = None) -> int:
    """Return the depth of a student: any integer from `low` to `high`.

    Args:
        hp: Hyperparameters of the trial.
        low: Smallest depth.
        high: Largest depth, included.
        default: Default value. Defaults to None, `low`.

    Returns:
        Number of layers.
    """
    return hp.Int("depth", low, high, default=default)


def layer_pairs(
    hp: keras_tuner.HyperParameters, student_layers: Sequence[str], teacher_layers: Sequence[str]
) -> list[tuple[str, str]]:
    """Pair the layers of the student with layers of the teacher in one of four ways.

    "uniform" spreads the student's layers evenly over the teacher's. "last" and "first" take the same number of the
    teacher's last or first layers. "final" pairs only the two last layers.

    ```python
    student_layers = [f"block_{number}" for number in range(spaces.depth(hp, 2, 4))]
    for s, t in spaces.layer_pairs(hp, student_layers, mapping.layers(teacher, "block_*")):
        terms.append(Term(Hint(), s, t, head="auto"))
    ```

    Args:
        hp: Hyperparameters of the trial.
        student_layers: List of layer paths, as for `Term(student=)`.
        teacher_layers: List of layer paths, at least as many.

    Returns:
        List of pairs `(student path, teacher path)`.

    Raises:
        ValueError: If the teacher has fewer layers than the student.

    Reference:
        Jiao et al., EMNLP 2020, https://arxiv.org/abs/1909.10351 (uniform, last, first); Wang et al., NeurIPS 2020,
        https://arxiv.org/abs/2002.10957 (final)

    Example:

    >>> import keras_tuner
    >>> from keras_distill.tuning import spaces
    >>> spaces.layer_pairs(keras_tuner.HyperParameters(), ["block_1"], ["block_2", "block_4"])
    [('block_1', 'block_4')]
    """
    if len(student_layers) > len(teacher_layers):
        raise ValueError(
            f"`layer_pairs` needs at least as many teacher layers as student layers. Pass fewer `student_layers`. "
            f"Received: {len(student_layers)} student layers, {len(teacher_layers)} teacher layers"
        )
    return _PAIRS[hp.Choice("layer_pairs", list(_PAIRS))](student_layers, teacher_layers)


def optimizer(hp: keras_tuner.HyperParameters, steps: int | None = None) -> keras.optimizers.Optimizer:
    """Return Adam, or SGD with Nesterov momentum 0.9, each with its own range of learning rates.

    Args:
        hp: Hyperparameters of the trial.
        steps: Number of steps of a cosine decay to 0. Under Hyperband, pass the steps of `max_epochs`: a promoted
            trial then continues on the same cosine. Defaults to None, a constant learning rate.

    Returns:
        A new Keras optimizer.
    """
    kind = hp.Choice("optimizer", ["adam", "sgd"])
    with hp.conditional_scope("optimizer", ["adam"]):
        adam = hp.Float("adam_learning_rate", 1e-4, 1e-2, sampling="log", default=1e-3)
    with hp.conditional_scope("optimizer", ["sgd"]):
        sgd = hp.Float("sgd_learning_rate", 1e-2, 1.0, sampling="log", default=1e-1)
    rate = adam if kind == "adam" else sgd
    rate = rate if steps is None else keras.optimizers.schedules.CosineDecay(rate, steps)
    return keras.optimizers.Adam(rate) if kind == "adam" else keras.optimizers.SGD(rate, 0.9, nesterov=True)


def _uniform(student_layers, teacher_layers):
    """Pair as `mapping.uniform`, rounded up where the teacher's depth is not a multiple of the student's."""
    num_students, num_teachers = len(student_layers), len(teacher_layers)
    pairs = [(number, -(-(number + 1) * num_teachers // num_students) - 1) for number in range(num_students)]
    return mapping.by_hand(student_layers, teacher_layers, pairs)


_PAIRS = {
    "uniform": _uniform,
    "last": mapping.last,
    "first": lambda student_layers, teacher_layers: mapping.every(student_layers, teacher_layers, 1),
    "final": lambda student_layers, teacher_layers: mapping.last(student_layers, teacher_layers, 1),
}
