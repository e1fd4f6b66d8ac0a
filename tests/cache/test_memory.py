"""Memory of labeling and joining does not grow with the dataset."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.processes

# Two million examples of 1 KiB, generated on the fly: 2 GiB, with a lower limit on the memory of the process.
SCRIPT = """
import resource, sys
import keras
import numpy as np
import tensorflow as tf
from keras_distill.cache import indexed, label, open_cache
from keras_distill.data.batch import split_inputs

directory, count, limit = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

def make_example(number):
    return tf.cast(number, "float32") / count + tf.range(256, dtype="float32")

keras.utils.set_random_seed(1)
teacher = keras.Sequential([keras.Input((256,)), keras.layers.Dense(10, name="logits")])
dataset = tf.data.Dataset.range(count).map(make_example, num_parallel_calls=2)
label(teacher, dataset.take(1000), directory + "/first", batch_size=500, verbose=0)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
label(teacher, dataset, directory + "/all", dtype="float16", batch_size=2000, shard_bytes=2**22, verbose=0)
teacher_cache = open_cache(directory + "/all")
seen, last = 0, None
for joined in teacher_cache.join(indexed(dataset).batch(2000).prefetch(2)):
    x, activations, index = split_inputs(joined)
    seen, last = seen + len(x), (x, activations, index)
x, activations, index = last
np.testing.assert_allclose(activations["output"], teacher(x), rtol=2e-3, atol=2e-2)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(seen, int(index[-1]), (after - before) / 1024)
"""


@pytest.mark.slow
def test_labeling_two_million_examples_needs_less_than_500_mib(tmp_path):
    count = 2_000_000
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), str(count), str(1536 * 2**20)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    seen, last, grown = done.stdout.split()
    assert int(seen) == count and int(last) == count - 1
    # In MiB. The examples take 2,000 and the activations 38.
    assert float(grown) < 500
