"""Several worker processes make the same update as one device."""

import json

import numpy as np
import pytest

from keras_distill.cache import label
from tests.support.cluster import finish, start
from tests.support.helpers import data, mlp

pytestmark = [pytest.mark.replicas, pytest.mark.processes]

# Train on one or several workers, and write the logs and the weights.
SCRIPT = """
import json, os, sys
import keras
import numpy as np
import tensorflow as tf
out, kind = sys.argv[1:]
alone = "TF_CONFIG" not in os.environ
strategy = tf.distribute.get_strategy() if alone else tf.distribute.MultiWorkerMirroredStrategy()
from tests.support.helpers import crossentropy, data, mlp
from keras_distill import Balance, Distiller, MutualDistiller, Term
from keras_distill.losses import Hint, KLDivergence, SimilarityPreserving
with strategy.scope():
    keras.utils.set_random_seed(0)
    if kind == "peers":
        model = MutualDistiller([mlp(name="one"), mlp(6, name="two")])
    else:
        terms = [
            Term(KLDivergence(2.0)),
            Term(SimilarityPreserving(), "features", "features"),
            Term(Hint(), "features", "features", head="auto", weight=Balance(0.5, 0.5)),
        ]
        model = Distiller(student=mlp(), teacher=mlp(12, name="teacher"), terms=terms)
    model.compile(keras.optimizers.Adam(0.05), crossentropy(), metrics=["accuracy"])
# Batches of 7, the last of 4: no number of workers divides both.
x, y = data(18)
dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(7)
history = model.fit(dataset, epochs=3, validation_data=dataset, verbose=0).history
history |= {f"evaluated_{name}": [v] for name, v in model.evaluate(dataset, verbose=0, return_dict=True).items()}
predicted = keras.tree.flatten(model.predict(dataset, verbose=0))
index = 0 if alone else strategy.cluster_resolver.task_id
np.savez(f"{out}/{index}.npz", *[np.array(weight) for weight in model.weights], *predicted)
open(f"{out}/{index}.json", "w").write(json.dumps(history))
"""


def trained(folder, workers, kind):
    """Return the logs of each worker, and its weights and predictions."""
    folder.mkdir()
    for code, text in finish(start(["-c", SCRIPT, folder, kind], workers)):
        assert code == 0, text[-3000:]
    logs = [json.loads((folder / f"{worker}.json").read_text()) for worker in range(workers)]
    arrays = [list(np.load(folder / f"{worker}.npz").values()) for worker in range(workers)]
    return logs, arrays


@pytest.mark.parametrize(("kind", "several"), [("distiller", (2, 3)), ("peers", (2,))])
def test_several_workers_equal_one(tmp_path, kind, several):
    (logs,), (arrays,) = trained(tmp_path / "1", 1, kind)
    for workers in several:
        for other_logs, others in zip(*trained(tmp_path / str(workers), workers, kind), strict=True):
            assert set(other_logs) == set(logs)
            for name, values in logs.items():
                np.testing.assert_allclose(other_logs[name], values, rtol=1e-6, atol=1e-6, err_msg=name)
            for array, other in zip(arrays, others, strict=True):
                np.testing.assert_allclose(other, array, rtol=1e-6, atol=1e-6)


# Each worker reads its part of a cache, and writes which examples it read.
SHARING = """
import os, sys
import keras
import numpy as np
import tensorflow as tf
cache, out = sys.argv[1:]
alone = "TF_CONFIG" not in os.environ
strategy = tf.distribute.get_strategy() if alone else tf.distribute.MultiWorkerMirroredStrategy()
from tests.support.helpers import crossentropy, data, mlp
from keras_distill import Distiller, Term
from keras_distill.cache import indexed, open_cache
from keras_distill.losses import KLDivergence
with strategy.scope():
    keras.utils.set_random_seed(0)
    stored = open_cache(cache)
    model = Distiller(student=mlp(), teacher=stored.teacher, terms=[Term(KLDivergence())])
    model.compile(keras.optimizers.SGD(0.05), crossentropy())
read, gather = [], stored._gather
stored._gather = lambda name, index: (name == "examples" and read.extend(index.tolist()), gather(name, index))[1]
def batches(context):
    own = indexed(data(24)).shard(context.num_input_pipelines, context.input_pipeline_id)
    return stored.join(own.batch(context.get_per_replica_batch_size(6)))
dataset = batches(tf.distribute.InputContext()) if alone else strategy.distribute_datasets_from_function(batches)
model.fit(dataset, verbose=0)
index = 0 if alone else strategy.cluster_resolver.task_id
np.savez(f"{out}/{index}.npz", np.array(read), *[np.array(weight) for weight in model.weights])
"""


def test_each_worker_reads_its_part_of_a_cache(tmp_path):
    label(mlp(12, name="teacher"), data(24)[0], tmp_path / "cache", verbose=0)
    found = {}
    for workers in (1, 2):
        (tmp_path / str(workers)).mkdir()
        for code, text in finish(start(["-c", SHARING, tmp_path / "cache", tmp_path / str(workers)], workers)):
            assert code == 0, text[-3000:]
        found[workers] = [list(np.load(tmp_path / f"{workers}/{worker}.npz").values()) for worker in range(workers)]
    ((_, *weights),) = found[1]
    for worker, (read, *others) in enumerate(found[2]):
        assert sorted(set(read)) == list(range(worker, 24, 2))
        for weight, other in zip(weights, others, strict=True):
            np.testing.assert_allclose(other, weight, rtol=1e-6, atol=1e-6)
