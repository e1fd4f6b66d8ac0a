"""Types of public signatures."""

from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

# An array or a tensor, eager or of a graph.
Tensor: TypeAlias = tf.Tensor | np.ndarray | keras.KerasTensor

# The path of a layer, as `models.Taps` reads it, or several of them.
Tap: TypeAlias = str | tuple[str, ...]

# A number, or a schedule that is evaluated at the optimizer's step.
ScheduleLike: TypeAlias = float | keras.optimizers.schedules.LearningRateSchedule

# Any nesting of tuples, lists and dictionaries.
Structure: TypeAlias = Any
