"""Top-k storage of logits, and the size of the files."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import OUTPUT, Distiller, Term
from keras_distill.cache import label, open_cache
from keras_distill.data.batch import unpack
from keras_distill.losses import KLDivergence, TopK
from tests.support.helpers import compiled

EXAMPLES, CLASSES, K = 40, 50, 5


def inputs():
    return np.random.default_rng(0).normal(size=(EXAMPLES, 8)).astype("float32")


def model(classes=CLASSES, seed=1, positions=()):
    keras.utils.set_random_seed(seed)
    x = keras.Input((8,))
    y = keras.layers.Dense(int(np.prod(positions)) * classes, kernel_initializer="random_normal")(x)
    return keras.Model(x, keras.layers.Reshape((*positions, classes), name="logits")(20 * y))


def log_softmax(logits):
    logits = logits.astype("float64")
    logits -= logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


@pytest.mark.parametrize("positions", [(), (3,)])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float16", 2e-3)])
def test_the_top_classes_and_the_sum_of_the_others_are_reteacher_cache(tmp_path, dtype, tolerance, positions):
    teacher = model(positions=positions)
    label(teacher, (inputs(),), tmp_path, dtype=dtype, top_k=K, verbose=0)
    teacher_cache = open_cache(tmp_path)
    batch = next(iter(teacher_cache.join(tf.data.Dataset.from_tensor_slices(inputs())).batch(EXAMPLES)))
    teacher_cache.teacher.connect([OUTPUT])
    reteacher_cache = log_softmax(teacher_cache.teacher.activations(unpack(batch, 0))[OUTPUT].numpy())
    expected = log_softmax(teacher.predict(inputs(), verbose=0))
    assert reteacher_cache.shape == (EXAMPLES, *positions, CLASSES)
    order = np.argsort(-expected, axis=-1)
    top, rest = order[..., :K], order[..., K:]
    for pick, reduce in ((top, lambda x: x), (rest, lambda x: np.log(np.exp(x).sum(axis=-1)))):
        np.testing.assert_allclose(
            *(reduce(np.take_along_axis(x, pick, axis=-1)) for x in (reteacher_cache, expected)),
            rtol=tolerance,
            atol=tolerance,
        )
    # The remaining probability is distributed evenly.
    others = np.take_along_axis(reteacher_cache, rest, axis=-1)
    np.testing.assert_allclose(others, others[..., :1].repeat(CLASSES - K, axis=-1), rtol=1e-5)


def test_the_top_k_loss_equals_that_of_the_running_teacher(tmp_path):
    teacher = model()
    label(teacher, (inputs(),), tmp_path, top_k=K, verbose=0)
    teacher_cache = open_cache(tmp_path)
    histories = []
    for source, x in ((teacher, inputs()), (teacher_cache.teacher, teacher_cache.load(inputs()))):
        distiller = compiled(Distiller(student=model(seed=2), teacher=source, terms=[Term(TopK(K))]))
        histories.append(
            distiller.fit(x, np.zeros(EXAMPLES, "int32"), epochs=3, batch_size=8, shuffle=False, verbose=0).history
        )
    np.testing.assert_allclose(histories[0]["top_k_loss"], histories[1]["top_k_loss"], rtol=1e-4)


def test_another_number_of_classes_raises(tmp_path):
    label(model(), (inputs(),), tmp_path, top_k=K, verbose=0)
    with pytest.raises(ValueError, match="50"):
        Distiller(student=model(classes=49), teacher=open_cache(tmp_path).teacher, terms=[Term(KLDivergence())])


@pytest.mark.parametrize(
    ("k", "message"),
    [
        (0, "`top_k` must be an integer >= 1 or None. Received: 0"),
        (CLASSES, "`top_k` must be less than the number of classes at 'output', which is 50.*Received: 50"),
        (True, "`top_k` must be an integer >= 1 or None. Received: True"),
        (2.5, "`top_k` must be an integer >= 1 or None. Received: 2.5"),
        (
            {"logits": 3},
            "applies to the tap 'logits', which is not among the cached taps .'output'.*Received: {'logits': 3}",
        ),
    ],
)
def test_an_invalid_top_k_raises(tmp_path, k, message):
    with pytest.raises(ValueError, match=message):
        label(model(), (inputs(),), tmp_path, top_k=k, verbose=0)


def test_a_cache_of_another_top_k_raises(tmp_path):
    label(model(), (inputs(),), tmp_path, top_k=K, verbose=0)
    with pytest.raises(ValueError, match="holds a cache with other settings: taps"):
        label(model(), (inputs(),), tmp_path, top_k=K + 1, verbose=0)


@pytest.mark.parametrize(
    ("classes", "top_k", "information"),
    [(10, None, 10 * 2), (1000, None, 1000 * 2), (1000, 32, 32 * (2 + 2) + 2)],
)
def test_the_files_have_at_most_ten_percent_overhead(tmp_path, classes, top_k, information):
    count = 20_000
    x = np.random.default_rng(0).normal(size=(count, 8)).astype("float32")
    label(model(classes), (x,), tmp_path, dtype="float16", top_k=top_k, batch_size=1000, verbose=0)
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert information * count <= size <= 1.1 * information * count
    # The smallest fingerprints still detect another order of the examples.
    with pytest.raises(tf.errors.InvalidArgumentError, match="does not match its fingerprint"):
        list(open_cache(tmp_path).join(tf.data.Dataset.from_tensor_slices(x[::-1])).batch(32).take(1))
