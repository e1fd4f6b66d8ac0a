import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import Distiller, HiddenStates, Term, load_distiller
from keras_distill.data.batch import Batch, with_activations
from keras_distill.losses import (
    DIST,
    BinaryKD,
    Chunked,
    ChunkedCrossentropy,
    ConfidenceTemperature,
    CurriculumTemperature,
    DecoupledKD,
    FocalTemperature,
    JensenShannon,
    KLDivergence,
    LogitMSE,
    LogitStandardization,
    MultiLevelKD,
    ReverseKL,
    TopK,
    TotalVariation,
)
from keras_distill.schedules import Linear
from keras_distill.teachers import CachedTeacher, EMATeacher, ModelTeacher
from tests.support.helpers import assert_same_weights, features, fitted, weights_of

BATCH, LENGTH, WORDS = 3, 7, 11
POINTWISE = [
    None,
    KLDivergence(2.0),
    ReverseKL(),
    JensenShannon(),
    TotalVariation(),
    LogitMSE(),
    DecoupledKD(),
    BinaryKD(),
    TopK(k=3),
    LogitStandardization(KLDivergence()),
]


def language_model(dim=4, name="student", words=WORDS, seed=0, **last):
    keras.utils.set_random_seed(seed)
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    x = keras.layers.Embedding(WORDS, dim, mask_zero=True, name="embedding")(tokens)
    x = keras.layers.Dense(dim, activation="tanh", name="block")(x)
    last = {"bias_initializer": "normal", "kernel_initializer": "normal", "name": "logits"} | last
    return keras.Model(tokens, keras.layers.Dense(words, **last)(x), name=name)


def texts(batch=BATCH, length=LENGTH, seed=0):
    """Return word indices and the next ones. 0 is padding, -1 a missing label."""
    rng = np.random.default_rng(seed)
    tokens, following = rng.integers(1, WORDS, (2, batch, length))
    tokens[0, -2:] = 0
    following[-1, :2] = -1
    return tokens.astype("int32"), following.astype("int32")


def dense(dim, words=WORDS, seed=0, **options):
    layer = keras.layers.Dense(words, name="logits", **options)
    layer.build((None, dim))
    layer.set_weights([features(*weight.shape, seed=seed + index) for index, weight in enumerate(layer.weights)])
    return layer


def connected(loss, student, teacher, tokens, student_dim=4, teacher_dim=6):
    """Return a built `Chunked` that uses these layers."""
    models = (keras.Sequential([keras.Input((None, layer.kernel.shape[0])), layer]) for layer in (student, teacher))
    chunked = Chunked(loss, "logits", "logits", tokens=tokens)
    chunked.connect(next(models), ModelTeacher(next(models)))
    chunked.build((None, None, student_dim), (None, None, teacher_dim))
    return chunked


def values_and_gradients(function, hidden, layer):
    """Return `function(hidden)` and the gradients of an unevenly weighted sum of it."""
    with tf.GradientTape() as tape:
        tape.watch(hidden)
        values = function(hidden)
        total = tf.reduce_sum(values * tf.range(1.0, 1.0 + len(hidden)))
    return [values, *tape.gradient(total, [hidden, *(weight.value for weight in layer.trainable_weights)])]


def assert_close(results, expected, tolerance=1e-5):
    for one, other in zip(results, expected, strict=True):
        other = np.asarray(other, "float64")
        np.testing.assert_allclose(
            np.asarray(one, "float64"), other, rtol=tolerance, atol=tolerance * np.abs(other).max()
        )


@pytest.mark.parametrize("loss", POINTWISE, ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("tokens", [1, 4, 7, 21, 100])
def test_equals_the_inner_loss(loss, tokens):
    student, teacher = dense(4), dense(6, seed=5)
    hidden, target = tf.constant(features(BATCH, LENGTH, 4)), tf.constant(features(BATCH, LENGTH, 6, seed=1))
    weight = np.random.default_rng(3).random((BATCH, LENGTH)).astype("float32")
    weight[0, 3:] = 0
    batch = Batch(None, texts()[1] if loss is not None and loss.needs_labels else None, position_weight=weight)
    chunked = connected(loss, student, teacher, tokens)
    plain = KLDivergence(1.0) if loss is None else loss
    assert_close(
        values_and_gradients(lambda h: chunked.compare(h, target, batch), hidden, student),
        values_and_gradients(lambda h: plain.compare(student(h), teacher(target), batch), hidden, student),
    )


def test_known_value():
    # Rows (2, 0) and (0, 0) with the identity as kernel: LogitMSE is half of 4, and 0.
    layer = dense(2, words=2, use_bias=False)
    layer.set_weights([np.eye(2)])
    hidden, zeros = np.array([[[2.0, 0.0], [0.0, 0.0]]], "float32"), np.zeros((1, 2, 2), "float32")
    loss = connected(LogitMSE(), layer, layer, 1, 2, 2)
    expected = np.mean(LogitMSE().compare(hidden, zeros, Batch(None)))
    np.testing.assert_allclose(loss.compare(hidden, zeros, Batch(None)), [1.0])
    np.testing.assert_allclose(expected, 1.0)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("length", [LENGTH, None])
def test_compiles(jit_compile, length):
    student, teacher = dense(4), dense(6, seed=5)
    hidden, target = tf.constant(features(BATCH, LENGTH, 4)), tf.constant(features(BATCH, LENGTH, 6, seed=1))
    batch = [None if length is None else BATCH]
    chunked = connected(KLDivergence(2.0), student, teacher, 4)

    @tf.function(
        jit_compile=jit_compile,
        input_signature=[tf.TensorSpec((*batch, length, 4)), tf.TensorSpec((*batch, length, 6))],
    )
    def step(hidden, target):
        with tf.GradientTape() as tape:
            tape.watch(hidden)
            values = chunked.compare(hidden, target, Batch(None, step=tf.constant(3)))
            total = tf.reduce_sum(values * tf.constant([1.0, 2.0, 3.0]))
        return [values, *tape.gradient(total, [hidden, *(weight.value for weight in student.trainable_weights)])]

    plain = KLDivergence(2.0)
    expected = values_and_gradients(lambda h: plain.compare(student(h), teacher(target), Batch(None)), hidden, student)
    assert_close(step(hidden, target), expected)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_logits_are_those_of_the_layer(policy):
    student, teacher = dense(4, dtype=policy), dense(6, seed=5, dtype=policy)
    # A loss receives float32, here with values that half precision can represent.
    hidden, target = (
        tf.cast(tf.cast(x, student.compute_dtype), "float32")
        for x in (features(BATCH, LENGTH, 4), features(BATCH, LENGTH, 6, seed=1))
    )
    chunked, plain = connected(None, student, teacher, 4), KLDivergence(1.0)
    result = values_and_gradients(lambda h: chunked.compare(h, target, Batch(None)), hidden, student)
    expected = values_and_gradients(lambda h: plain.compare(student(h), teacher(target), Batch(None)), hidden, student)
    assert all(part.dtype == tf.float32 for part in result)
    assert_close(result[:2], expected[:2])
    # A sum over tokens: over chunks in float32, in the plain layer in half precision.
    assert_close(result[2:], expected[2:], tolerance=1e-2)


def test_tied_weights_are_trained_from_both_ends():
    def body(dim, name):
        tokens = keras.Input((None,), dtype="int32")
        return keras.Model(tokens, keras.layers.Embedding(WORDS, dim, name="embedding")(tokens), name=name)

    loss = Chunked(ReverseKL(), "embedding", "embedding", tokens=4)
    student, teacher = body(4, "student"), body(6, "teacher")
    distiller = Distiller(student=student, teacher=teacher, terms=[Term(loss)])
    x, (student_table,), (teacher_table,) = texts()[0], student.get_weights(), teacher.get_weights()
    with tf.GradientTape() as tape:
        variable = tf.Variable(student_table)
        logits = tf.gather(variable, x) @ tf.transpose(variable)
        targets = tf.gather(teacher_table, x) @ teacher_table.T
        expected = tf.reduce_mean(ReverseKL().compare(logits, targets, Batch(None)))
    gradient = tf.convert_to_tensor(tape.gradient(expected, variable))
    distiller.compile(keras.optimizers.SGD(1.0))
    history = fitted(distiller, x)
    np.testing.assert_allclose(history["loss"][0], expected, rtol=1e-5)
    np.testing.assert_allclose(student.get_weights()[0], student_table - gradient, rtol=1e-4, atol=1e-6)


def test_calls_a_reversible_embedding_in_reverse():
    reversible = getattr(keras.layers, "ReversibleEmbedding", None)
    if reversible is None:
        pytest.skip("This Keras has no ReversibleEmbedding.")

    def body(dim, name):
        tokens = keras.Input((None,), dtype="int32")
        layer = reversible(WORDS, dim, tie_weights=False, logit_soft_cap=3.0, name="embedding")
        hidden = layer(tokens)
        return keras.Model(tokens, layer(hidden, reverse=True), name=name), keras.Model(tokens, hidden, name=name)

    (student, student_body), (teacher, teacher_body) = body(4, "student"), body(6, "teacher")
    x = texts()[0]
    expected = np.mean(KLDivergence(1.0).compare(student(x), teacher(x), Batch(None)))
    distiller = Distiller(
        student=student_body, teacher=teacher_body, terms=[Term(Chunked(None, "embedding", "embedding", tokens=4))]
    )
    distiller.compile(keras.optimizers.SGD(0.1))
    np.testing.assert_allclose(fitted(distiller, x)["loss"][0], expected, rtol=1e-5)


def distilled(chunked, fit, **compiled):
    """Return `(history, weights of the student)` after training with chunked or plain losses."""
    student, teacher = language_model(), language_model(6, "teacher", seed=1)
    before = weights_of(teacher)
    loss, term = keras.losses.SparseCategoricalCrossentropy(from_logits=True), KLDivergence(Linear(4.0, 1.0, 10))
    if chunked:
        loss, term = ChunkedCrossentropy("logits", tokens=4), Chunked(term, "logits", "logits", 4)
    wrap = HiddenStates if chunked else (lambda model: model)
    distiller = Distiller(
        student=wrap(student), teacher=wrap(teacher), terms=[Term(term, weight=0.5)], supervised_weight=0.5
    )
    distiller.compile(keras.optimizers.SGD(0.5), loss, **compiled)
    history = fit(distiller)
    assert_same_weights(weights_of(teacher), before, rtol=0, atol=0)
    return history, weights_of(student)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_chunked_training_reaches_the_weights_of_plain_training(jit_compile):
    x, y = texts(12)
    weight = np.random.default_rng(4).random(12)

    def fit(distiller):
        # The last batch is smaller, and the last chunk of each batch is padded.
        return fitted(distiller, x, y, sample_weight=weight, epochs=3, batch_size=5)

    results = [distilled(chunked, fit, jit_compile=jit_compile) for chunked in (True, False)]
    (history, weights), (plain_history, plain_weights) = results
    assert history.keys() == {"loss", "supervised_loss", "chunked_loss"}
    np.testing.assert_allclose(history["supervised_loss"], plain_history["supervised_loss"], rtol=1e-5)
    np.testing.assert_allclose(history["chunked_loss"], plain_history["kl_divergence_loss"], rtol=1e-5)
    assert_same_weights(weights, plain_weights, atol=1e-6)
    assert history["loss"][-1] < history["loss"][0]


def test_two_replicas_make_the_update_of_one():
    # No padding and no missing labels: the supervised mean of a replica is over its own positions.
    x, y = (np.maximum(part, 1) for part in texts(12))

    def fit(distiller):
        return fitted(distiller, x, y, epochs=2, batch_size=6)

    _, expected = distilled(True, fit)
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], tf.distribute.ReductionToOneDevice()).scope():
        _, weights = distilled(True, fit)
    assert_same_weights(weights, expected, atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_trains_in_mixed_precision(policy):
    keras.config.set_dtype_policy(policy)
    x, y = texts(8)
    history, _ = distilled(True, lambda distiller: fitted(distiller, x, y, epochs=6, batch_size=4))
    assert np.isfinite(history["loss"]).all() and history["loss"][-1] < history["loss"][0]


def largest_tensors(function):
    """Return the largest tensor size in a graph and its functions, and the number of functions."""
    seen, largest = set(), 0

    def walk(graph):
        nonlocal largest
        for operation in graph.get_operations():
            for tensor in operation.outputs:
                # Loop variables that the condition does not use have no static shape there.
                if tensor.dtype.is_floating and "redundant_placeholder" not in tensor.name:
                    assert tensor.shape.is_fully_defined(), tensor
                    largest = max(largest, tensor.shape.num_elements())
        for name in graph._functions:
            if name not in seen:
                seen.add(name)
                inner = graph._get_function(name)
                if hasattr(inner, "graph"):
                    walk(inner.graph)

    walk(function.graph)
    return largest, len(seen)


@pytest.mark.parametrize("chunked", [True, False])
def test_no_tensor_holds_more_than_the_logits_of_a_chunk(chunked):
    words, dim, tokens, positions = 50, 4, 6, (4, 30)
    student, teacher = dense(dim, words), dense(dim, words, seed=5)
    loss = connected(KLDivergence(2.0), student, teacher, tokens, dim, dim)
    labelled = ChunkedCrossentropy(student, tokens)
    plain = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function
    def step(hidden, target, labels):
        with tf.GradientTape() as tape:
            tape.watch(hidden)
            if chunked:
                total = tf.reduce_sum(loss.compare(hidden, target, Batch(None))) + labelled(labels, hidden)
            else:
                values = KLDivergence(2.0).compare(student(hidden), teacher(target), Batch(None))
                total = tf.reduce_sum(values) + plain(labels, student(hidden))
        return total, tape.gradient(total, [hidden, *(weight.value for weight in student.trainable_weights)])

    hidden, labels = tf.TensorSpec((*positions, dim)), tf.TensorSpec(positions, tf.int32)
    largest, functions = largest_tensors(step.get_concrete_function(hidden, hidden, labels))
    if chunked:
        # Only the hidden states of all tokens may be larger than a chunk of logits.
        assert functions >= 4
        assert largest == max(tokens * words, positions[0] * positions[1] * dim)
    else:
        assert largest >= positions[0] * positions[1] * words


def test_crossentropy_equals_that_of_keras():
    layer = dense(4)
    hidden, (_, labels) = tf.constant(features(BATCH, LENGTH, 4)), texts()
    weight = np.random.default_rng(3).random((BATCH, LENGTH)).astype("float32") * (labels >= 0)
    chunked = ChunkedCrossentropy(layer, tokens=4)
    plain = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    expected = values_and_gradients(
        lambda h: plain(np.maximum(labels, 0), layer(h), weight) * tf.ones(BATCH), hidden, layer
    )
    result = values_and_gradients(lambda h: chunked(labels, h, weight) * tf.ones(BATCH), hidden, layer)
    assert_close(result, expected)
    assert np.all(np.asarray(chunked.call(labels, hidden))[labels < 0] == 0)


def test_crossentropy_trains_a_baseline():
    x, y = texts(8)
    y = np.maximum(y, 0)
    weights = []
    for chunked in (True, False):
        model = language_model()
        plain = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        loss = ChunkedCrossentropy(model.get_layer("logits"), tokens=4) if chunked else plain
        trained = HiddenStates(model) if chunked else model
        trained.compile(keras.optimizers.SGD(0.5), loss)
        fitted(trained, x, y)
        weights.append(weights_of(model))
    assert_same_weights(*weights, atol=1e-6)


def test_a_reloaded_distiller_resumes_training(tmp_path):
    x, y = texts(12)
    teacher = HiddenStates(language_model(6, "teacher", seed=1))

    def made():
        student = language_model()
        terms = [Term(Chunked(KLDivergence(2.0), "logits", "logits", tokens=4))]
        distiller = Distiller(student=HiddenStates(student), teacher=teacher, terms=terms)
        distiller.compile(keras.optimizers.Adam(0.01), ChunkedCrossentropy("logits", tokens=4))
        return distiller

    distiller = made()
    fitted(distiller, x, y)
    distiller.save(tmp_path / "d.keras")
    loaded = load_distiller(tmp_path / "d.keras", teacher=teacher)
    assert loaded.loss.lm_head.layer is loaded.student.model.get_layer("logits")
    assert isinstance(loaded.terms[0].loss.loss, KLDivergence) and loaded.terms[0].loss.tokens == 4
    assert sum(w.path.endswith("logits/kernel") for w in loaded.weights) == 1
    for run in (distiller, loaded):
        fitted(run, x, y)
    assert_same_weights(weights_of(loaded.student), weights_of(distiller.student), rtol=0, atol=0)


def test_cached_logits_are_compared_directly():
    student, teacher = language_model(), language_model(6, "teacher", seed=1)
    x, _ = texts()
    logits = np.asarray(teacher(x))
    expected = np.mean(KLDivergence(2.0).compare(student(x), logits, Batch(None, position_weight=x > 0)))
    loss = Chunked(KLDivergence(2.0), student_layer="logits", tokens=4)
    distiller = Distiller(student=HiddenStates(student), teacher=CachedTeacher({"output": logits}), terms=[Term(loss)])
    distiller.compile(keras.optimizers.SGD(0.1))
    history = fitted(distiller, with_activations(x, {"output": logits}))
    np.testing.assert_allclose(history["loss"][0], expected, rtol=1e-5)


def test_trains_with_an_ema_teacher():
    x, y = texts(8)
    student = language_model()
    body = HiddenStates(student)
    distiller = Distiller(
        student=body, teacher=EMATeacher(body, 0.5), terms=[Term(Chunked(None, "logits", "logits", tokens=4))]
    )
    distiller.compile(keras.optimizers.SGD(0.5), ChunkedCrossentropy(student.get_layer("logits"), tokens=4))
    history = fitted(distiller, x, y, epochs=2)
    assert history["chunked_loss"][0] == 0 and history["chunked_loss"][1] > 0


@pytest.mark.parametrize("loss", [DIST(), MultiLevelKD(), FocalTemperature(), ConfidenceTemperature(), Chunked()])
def test_rejects_losses_that_are_not_pointwise(loss):
    with pytest.raises(ValueError, match=f"compares each position independently.*Received: a {type(loss).__name__}"):
        Chunked(loss)


def test_rejects_invalid_arguments():
    with pytest.raises(ValueError, match="Received: a CurriculumTemperature"):
        Chunked(CurriculumTemperature())
    with pytest.raises(ValueError, match="Received: a LogitStandardization"):
        Chunked(LogitStandardization(DIST()))
    with pytest.raises(ValueError, match="takes a loss of logits.*Received"):
        LogitStandardization(Chunked(None, "logits", "logits"))
    with pytest.raises(ValueError, match="`tokens` must be an integer >= 1. Received: 0"):
        Chunked(tokens=0)
    with pytest.raises(ValueError, match="must be the path of the layer.*Received: 3"):
        ChunkedCrossentropy(3)
    with pytest.raises(ValueError, match="has only the path 'logits' of its layer.*model.get_layer"):
        ChunkedCrossentropy("logits")(np.zeros((1, 1)), features(1, 1, 2))


def assert_rejected(message, student=None, teacher=None, wrap=(HiddenStates, HiddenStates), **options):
    models = student or language_model(), teacher or language_model(6, "teacher")
    options = {"student_layer": "logits", "teacher_layer": "logits"} | options
    with pytest.raises(ValueError, match=message):
        Distiller(student=wrap[0](models[0]), teacher=wrap[1](models[1]), terms=[Term(Chunked(**options))])


def test_errors_come_before_training_and_name_layers_and_shapes():
    assert_rejected("No layer called 'logit' in 'student_hidden_states'. Closest: .*logits", student_layer="logit")
    assert_rejected(r"Term 'chunked' cannot compare .*vocabulary has 11 words, the teacher's 12: layer 'logits' maps "
            r"\(None, None, 4\) to \(None, None, 11\)", teacher=language_model(6, "teacher", words=12))  # fmt: skip
    assert_rejected(
        "Layer 'logits' ends in a softmax, but its outputs must be logits", teacher=language_model(activation="softmax")
    )
    assert_rejected(
        r"Layer 'logits', with weights of the shapes \[\(4, 11\), \(11,\)\], does not accept hidden states of size 11",
        wrap=(lambda model: model, HiddenStates),
    )
    assert_rejected(
        "A function has no layers. Pass the keras.Model itself. Received: layer 'logits'",
        wrap=(HiddenStates, lambda model: lambda x: model(x)),
    )
    assert_rejected("11 words, the teacher's 6", teacher_layer=None)
    assert_rejected(
        "Layer 'embedding_norm' returns .* not one row of logits",
        student_layer="embedding_norm",
        student=_model_with_a_layer_of_rank_4(),
    )
    distiller = Distiller(
        student=HiddenStates(language_model()),
        teacher=HiddenStates(language_model(6, "teacher")),
        terms=[Term(Chunked(None, *["logits"] * 2))],
    )
    with pytest.raises(ValueError, match="No layer called 'logit' in 'student_hidden_states'"):
        distiller.compile("sgd", ChunkedCrossentropy("logit"))
    with pytest.raises(
        ValueError, match=r"weights of the shapes \[\(5, 11\), \(11,\)\], does not accept hidden states of size 4"
    ):
        distiller.compile("sgd", ChunkedCrossentropy(dense(5)))


def _model_with_a_layer_of_rank_4():
    """Return a student whose layer "embedding_norm" accepts hidden states and returns no row of logits."""
    tokens = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(WORDS, 4)(tokens)
    x = keras.layers.Lambda(lambda x: x[..., None], name="embedding_norm")(x)
    x = keras.layers.Reshape((-1, 4))(x)
    return keras.Model(tokens, keras.layers.Dense(WORDS, name="logits")(x), name="student")
