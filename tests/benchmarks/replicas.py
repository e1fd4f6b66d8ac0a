"""Benchmark of distributing a step over replicas, against Keras.

```
python -m tests.benchmarks.replicas
```

The student's own `fit` step, and a distillation step with cached teacher outputs, each under `MirroredStrategy` on 1, 2
and 4 logical CPU devices, in one process, in turn. The last line is JSON:

    slowdown_2, slowdown_4    time of the student's own step on 2 or 4 devices / on one; no speedup is
                              expected, because the devices share one CPU
    overhead_2, overhead_4    the same ratio of a distillation step / the ratio of the student's own step

Each is the median over the pairs of `tests/benchmarks/pairs.py`. BatchNormalization is synchronized in both.
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

ROUNDS = flags.DEFINE_integer("turns", 15, "Number of timings of each step.", lower_bound=1)
COUNTS = 1, 2, 4


def mirrored(count):
    devices = [f"CPU:{number}" for number in range(count)]
    return tf.distribute.MirroredStrategy(devices, tf.distribute.ReductionToOneDevice())


def compiled_under(strategy, make):
    """Return a compiled model under a strategy."""
    with strategy.scope():
        model = compiled(make())
        for layer in model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = True
    return model


def ratios(name, pair):
    x, y = examples(pair, pair.batch)
    logits = {OUTPUT: pair.teacher()(x).numpy()}
    strategies = {count: mirrored(count) for count in COUNTS}

    def distiller():
        return Distiller(student=pair.student(), teacher=CachedTeacher(logits), terms=LOGITS)

    functions = {}
    for count, strategy in strategies.items():
        functions[f"keras_{count}"] = steps(compiled_under(strategy, pair.student), (x, y))
        functions[f"ours_{count}"] = steps(compiled_under(strategy, distiller), (with_activations(x, logits), y))
    times = timing.interleaved(functions, ROUNDS.value, f"{name}: steps on {COUNTS} devices")
    results = {}
    for count in COUNTS[1:]:
        slowdown = times[f"keras_{count}"] / times["keras_1"]
        results[f"overhead_{count}"] = timing.ratio(times[f"ours_{count}"] / times["ours_1"], slowdown)
        results[f"slowdown_{count}"] = float(np.median(slowdown))
    return results


def main(_):
    tf.get_logger().setLevel("ERROR")
    device = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(device, [tf.config.LogicalDeviceConfiguration()] * max(COUNTS))
    results = {}
    for name, pair in PAIRS.items():
        keras.utils.set_random_seed(0)
        results[name] = ratios(name, pair)
        keras.backend.clear_session()
    medians = timing.summary(results)
    print(json.dumps({name: round(value, 4) for name, value in medians.items()}))


if __name__ == "__main__":
    app.run(main)
