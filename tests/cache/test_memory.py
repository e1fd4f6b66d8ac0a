"""A data set larger than memory is labelled, and read back, in the memory of a small one."""

import os
import subprocess
import sys

import pytest

# Two million examples of 1 KiB, made as they are read: 2 GiB, under a limit of less on what the process may hold.
SCRIPT = """
import resource, sys
import keras
import numpy as np
import tensorflow as tf
from keras_distill.data.batch import split
from keras_distill.cache import cached, indexed, label

directory, count, limit = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

def made(number):
    return tf.cast(number, "float32") / count + tf.range(256, dtype="float32")

keras.utils.set_random_seed(1)
teacher = keras.Sequential([keras.Input((256,)), keras.layers.Dense(10, name="logits")])
dataset = tf.data.Dataset.range(count).map(made, num_parallel_calls=2)
label(teacher, (dataset.take(1000)), directory + "/first", batch_size=500, verbose=0)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
label(teacher, dataset, directory + "/all", dtype="float16", batch_size=2000, shard_bytes=2**22, verbose=0)
stored = cached(directory + "/all")
seen, last = 0, None
for joined in stored.join(indexed(dataset).batch(2000).prefetch(2)):
    x, activations, index = split(joined)
    seen, last = seen + len(x), (x, activations, index)
x, activations, index = last
np.testing.assert_allclose(activations["output"], teacher(x), rtol=2e-3, atol=2e-2)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(seen, int(index[-1]), (after - before) / 1024)
"""


@pytest.mark.slow
def test_two_million_examples_take_little_memory(tmp_path):
    count = 2_000_000
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), str(count), str(1536 * 2**20)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    seen, last, grown = done.stdout.split()
    assert int(seen) == count and int(last) == count - 1
    # In MiB; the examples are 2,000 and the activations 38.
    assert float(grown) < 500
