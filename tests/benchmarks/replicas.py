"""What it costs to share a step among replicas, beside what it costs Keras.

```
python -m tests.benchmarks.replicas
```

The student's own `fit` step, and a step of distillation whose teacher has spoken, each under `MirroredStrategy` on 1, 2
and 4 logical devices of the processor, in one process, taking turns. The last line is JSON:

    slowdown_2, slowdown_4    the student's own step on that many / on one: devices that share a processor gain nothing
    overhead_2, overhead_4    the same of a step of distillation, as a multiple of that

Each is the median over the pairs of `tests/benchmarks/pairs.py`. BatchNormalization is synchronised in both.
"""

import json

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

from keras_distill import OUTPUT, Distiller
from keras_distill.data.batch import with_activations
from keras_distill.teachers import CachedTeacher
from tests.benchmarks import timing
from tests.benchmarks.pairs import PAIRS, examples
from tests.benchmarks.step_time import LOGITS, compiled, steps

ROUNDS = flags.DEFINE_integer("turns", 15, "How often each step is timed.", lower_bound=1)
COUNTS = 1, 2, 4


def strategy(count):
    devices = [f"CPU:{number}" for number in range(count)]
    return tf.distribute.MirroredStrategy(devices, tf.distribute.ReductionToOneDevice())


def made(shared_by, make):
    """A compiled model under a strategy."""
    with shared_by.scope():
        model = compiled(make())
        for layer in model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = True
    return model


def ratios(name, pair):
    x, y = examples(pair, pair.batch)
    logits = {OUTPUT: pair.teacher()(x).numpy()}
    strategies = {count: strategy(count) for count in COUNTS}

    def distiller():
        return Distiller(student=pair.student(), teacher=CachedTeacher(logits), terms=LOGITS)

    functions = {}
    for count, shared_by in strategies.items():
        functions[f"keras_{count}"] = steps(made(shared_by, pair.student), (x, y))
        functions[f"ours_{count}"] = steps(made(shared_by, distiller), (with_activations(x, logits), y))
    times = timing.interleaved(functions, ROUNDS.value, f"{name}: steps on {COUNTS} devices")
    found = {}
    for count in COUNTS[1:]:
        slowdown = times[f"keras_{count}"] / times["keras_1"]
        found[f"overhead_{count}"] = timing.ratio(times[f"ours_{count}"] / times["ours_1"], slowdown)
        found[f"slowdown_{count}"] = float(np.median(slowdown))
    return found


def main(_):
    tf.get_logger().setLevel("ERROR")
    device = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(device, [tf.config.LogicalDeviceConfiguration()] * max(COUNTS))
    found = {}
    for name, pair in PAIRS.items():
        keras.utils.set_random_seed(0)
        found[name] = ratios(name, pair)
        keras.backend.clear_session()
    medians = timing.summary(found)
    print(json.dumps({name: round(value, 4) for name, value in medians.items()}))


if __name__ == "__main__":
    app.run(main)
