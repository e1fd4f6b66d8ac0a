"""Growth of time, memory and size of a cache with the number of examples, each size in a separate process.

```
python -m tests.benchmarks.growth 1000000 FOLDER
```

labels as many generated examples, opens the cache, reads it in one epoch, and prints a line of JSON:

    label, open, epoch    seconds
    bytes                 bytes on disk
    label_mib, epoch_mib  peak memory beyond that of the process before, which has worked on 20,000 examples, in MiB

The examples are never in memory together. The teacher is so small that the cost is that of the cache.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from tests.benchmarks import timing

BATCH = 1024
WARM_UP = 20_000


def figures(counts):
    """Return `{name: figure}` of caches of these numbers of examples: per example, memory, and exponents."""
    found, results = measure_all(counts), {}
    for count, values in found.items():
        for name in ("label", "epoch"):
            results[f"{name}_us_{count}"] = 1e6 * values[name] / count
            results[f"{name}_mib_{count}"] = values[f"{name}_mib"]
        results[f"bytes_{count}"] = values["bytes"] / count
        results[f"open_ms_{count}"] = 1e3 * values["open"]
    for name in ("label", "epoch", "open", "bytes"):
        results[f"{name}_exponent"] = timing.exponent(counts, [found[count][name] for count in counts])
    return results


def measure_all(counts):
    """Return `{count: measurements}`, each measured in a new process and a temporary folder."""
    found = {}
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "tests.benchmarks.growth", str(count), folder]
            run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found[count] = json.loads(run.stdout.splitlines()[-1])
        print(f"growth: {count:,} examples: {found[count]}", flush=True)
    return found


def measure(count, folder):
    """Return the measurements of this process."""
    import keras
    import tensorflow as tf

    from keras_distill.cache import indexed, label, open_cache

    keras.utils.set_random_seed(0)
    teacher = keras.Sequential([keras.Input((4,)), keras.layers.Dense(10)])

    def generated(count):
        numbers = tf.data.Dataset.range(count).batch(BATCH)
        # Four digits of the number in base 256, from 0 to 1: the teacher's logits do not grow with it.
        features = numbers.map(lambda n: tf.cast(n[:, None] // [1, 256, 256**2, 256**3] % 256, "float32") / 256)
        return features.unbatch().apply(tf.data.experimental.assert_cardinality(count))

    def store(count, name):
        label(teacher, generated(count), folder / name, dtype="float16", batch_size=BATCH, verbose=0)

    def epoch(count, name):
        dataset = open_cache(folder / name).join(indexed(generated(count)).batch(BATCH))
        assert sum(1 for _ in dataset) == -(-count // BATCH)

    def timed(function, *arguments):
        start = time.perf_counter()
        function(*arguments)
        return time.perf_counter() - start

    store(WARM_UP, "first")
    epoch(WARM_UP, "first")
    before = reset_peak()
    seconds = {"label": timed(store, count, "all")}
    label_mib = (peak() - before) / 2**20
    before = reset_peak()
    seconds["open"] = timed(open_cache, folder / "all")
    seconds["epoch"] = timed(epoch, count, "all")
    size = sum(path.stat().st_size for path in (folder / "all").iterdir())
    return {**seconds, "bytes": size, "label_mib": label_mib, "epoch_mib": (peak() - before) / 2**20}


def reset_peak():
    """Reset the peak memory of this process to its present memory, and return that in bytes."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    print(json.dumps(measure(int(sys.argv[1]), pathlib.Path(sys.argv[2]))))
