"""Ready-made search spaces: functions that ask a `keras_tuner.HyperParameters` for a value.

```python
def terms(hp):
    return [Term(KLDivergence(spaces.temperature(hp)), weight=1 - spaces.alpha(hp))]
```

Asked again in the same trial, each gives the same value again. The defaults, which
`hypermodel.build(keras_tuner.HyperParameters())` takes, are those of the literature.
"""

import keras

from keras_distill import mapping


def temperature(hp, low=1.0, high=16.0, default=4.0):
    """The temperature of softened logits, on a logarithmic scale; 4 is that of Tian et al.'s comparison.

    Reference:
        Tian et al., ICLR 2020, https://arxiv.org/abs/1910.10699
    """
    return hp.Float("temperature", low, high, sampling="log", default=default)


def alpha(hp, low=0.0, high=0.9, default=0.1):
    """The weight of the supervised loss; the softened logits get `1 - alpha`."""
    return hp.Float("alpha", low, high, default=default)


def weight(hp, name, default, spread=10.0):
    """The weight of a term, on a logarithmic scale around that of its paper.

    Args:
        hp: A `keras_tuner.HyperParameters`.
        name: Of the term; the hyperparameter is called `<name>_weight`.
        default: The paper's.
        spread: From `default / spread` to `default * spread`. Default 10.
    """
    return hp.Float(f"{name}_weight", default / spread, default * spread, sampling="log", default=default)


def width(hp, low, high, default=None):
    """The width of a student: `low`, twice that, and so on up to `high`. Defaults to `low`."""
    # KerasTuner's grid gives a number of this kind as a float.
    return int(hp.Int("width", low, high, step=2, sampling="log", default=default))


def depth(hp, low, high, default=None):
    """The depth of a student: any number of layers from `low` to `high`. Defaults to `low`."""
    return hp.Int("depth", low, high, default=default)


def layer_pairs(hp, student_layers, teacher_layers):
    """Which layer of the student learns from which layer of the teacher: one of four ways to pair them.

    "uniform" spreads the student's layers evenly over the teacher's, "last" and "first" take as many of the teacher's
    last or first layers, and "final" pairs only the two last ones.

    ```python
    student_layers = [f"block_{number}" for number in range(spaces.depth(hp, 2, 4))]
    for s, t in spaces.layer_pairs(hp, student_layers, mapping.layers(teacher, "block_*")):
        terms.append(Term(Hint(), s, t, head="auto"))
    ```

    Args:
        hp: A `keras_tuner.HyperParameters`.
        student_layers: List of paths, as `Term` reads them.
        teacher_layers: List of paths, as many or more.

    Returns:
        List of pairs `(student path, teacher path)`.

    Raises:
        ValueError: If the teacher has fewer layers than the student.

    Reference:
        Jiao et al., EMNLP 2020, https://arxiv.org/abs/1909.10351 (uniform, last, first); Wang et al., NeurIPS 2020,
        https://arxiv.org/abs/2002.10957 (final)
    """
    if len(student_layers) > len(teacher_layers):
        raise ValueError(
            f"{len(student_layers)} student layers cannot all learn from {len(teacher_layers)} teacher layers. Choose "
            "some of them."
        )
    return _PAIRS[hp.Choice("layer_pairs", list(_PAIRS))](student_layers, teacher_layers)


def optimizer(hp, steps=None):
    """Adam, or SGD with Nesterov momentum of 0.9, each with a learning rate of its own range.

    Args:
        hp: A `keras_tuner.HyperParameters`.
        steps: Within how many steps the learning rate falls along a cosine to 0. Under Hyperband those of `max_epochs`:
            a student that goes on goes on along the same cosine. Defaults to None, a constant rate.

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
    """As `mapping.uniform`, and rounded up where one number is no multiple of the other."""
    students, teachers = len(student_layers), len(teacher_layers)
    pairs = [(number, -(-(number + 1) * teachers // students) - 1) for number in range(students)]
    return mapping.by_hand(student_layers, teacher_layers, pairs)


_PAIRS = {
    "uniform": _uniform,
    "last": mapping.last,
    "first": lambda student_layers, teacher_layers: mapping.every(student_layers, teacher_layers, 1),
    "final": lambda student_layers, teacher_layers: mapping.last(student_layers, teacher_layers, 1),
}
