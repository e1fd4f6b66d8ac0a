"""Rollouts in a distiller: texts, weights and losses against NumPy and KerasHub, seeds, and saving."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import Distiller, HiddenStates, Term, load_distiller
from keras_distill.data.batch import Batch
from keras_distill.language import Rollouts
from keras_distill.losses import KLDivergence, UniversalLogitDistillation
from keras_distill.metrics import Perplexity
from keras_distill.teachers import CachedTeacher, ModelTeacher
from tests.support.hub_models import END, WINDOW, WORDS, gpt2, gpt2_preprocessor, llama, prompts, recurrent

CROSSENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def distiller(student=None, teacher=None, loss=None, metrics=None, rate=0.0, jit_compile=False, **rollouts):
    rollouts = {"stop_token_ids": END} | rollouts
    made = Distiller(
        student=gpt2(1) if student is None else student,
        teacher=gpt2(2) if teacher is None else teacher,
        terms=[Term(KLDivergence(), over="tokens", name="kd")],
        rollouts=Rollouts(**rollouts),
    )
    made.compile(keras.optimizers.SGD(rate), loss, metrics=metrics, jit_compile=jit_compile)
    return made


def tensors(structure):
    return keras.tree.map_structure(lambda array: None if array is None else tf.constant(array), structure)


def rolled_out(made, inputs, labels=None, sample_weight=None):
    return made.training_batch(Batch(*tensors((inputs, labels, sample_weight))))


def greedy(model, inputs):
    """Return the texts of KerasHub, and the positions up to the first generated stop token."""
    model.compile(sampler="greedy")
    texts = model.generate({name: np.array(array) for name, array in inputs.items()}, stop_token_ids=[END])
    return np.array(texts["token_ids"]), np.array(texts["padding_mask"])


def log_softmax(logits):
    logits = np.asarray(logits, "float64")
    logits = logits - logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def weights_of(written, lengths):
    """Return the weight of each position: 1 where the next token is a generated one."""
    generated = written & (np.arange(WINDOW) >= lengths[:, None])
    return np.concatenate([generated[:, 1:], np.zeros((len(lengths), 1), bool)], axis=1).astype("float64")


@pytest.mark.parametrize("make", [gpt2, llama])
@pytest.mark.parametrize("writer", ["student", "teacher"])
def test_greedy_texts_are_those_of_keras_hub(make, writer):
    student, teacher = make(1), make(2)
    inputs, lengths = prompts()
    found = rolled_out(distiller(student, teacher, writer=writer, temperature=0), inputs)
    texts, written = greedy(student if writer == "student" else teacher, inputs)
    np.testing.assert_array_equal(found.inputs["padding_mask"], written)
    np.testing.assert_array_equal(found.inputs["token_ids"], texts * written)
    np.testing.assert_array_equal(found.sample_weight, weights_of(written, lengths))


def test_a_model_of_tokens_writes_what_it_predicts_for_each_prefix():
    student = recurrent(1)
    inputs, lengths = prompts()
    found = rolled_out(distiller(student, recurrent(2), temperature=0), inputs["token_ids"]).inputs.numpy()
    for row, length in enumerate(lengths):
        text = list(inputs["token_ids"][row, :length])
        while len(text) < WINDOW and text[-1] != END:
            logits = student.predict(np.array([text]), verbose=0)[0, -1]
            text.append(1 + int(logits[1:].argmax()))
        assert list(found[row]) == text + [0] * (WINDOW - len(text))


@pytest.mark.parametrize("fraction", [1.0, 1 - 1e-9])
def test_prompts_end_where_the_weights_begin(fraction):
    inputs, lengths = prompts()
    wanted = rolled_out(distiller(temperature=0), inputs)
    made = distiller(temperature=0, on_policy_fraction=fraction)
    np.testing.assert_array_equal(rolled_out(made, inputs).inputs["token_ids"], wanted.inputs["token_ids"])
    given = np.random.default_rng(1).integers(1, END, (3, WINDOW)).astype("int32")
    completed = np.where(inputs["padding_mask"], inputs["token_ids"], given)
    weights = (np.arange(WINDOW) >= lengths[:, None] - 1) * np.array([[1.0], [0.5], [0.0]])
    found = rolled_out(made, {"token_ids": completed, "padding_mask": np.ones_like(completed)}, None, weights)
    np.testing.assert_array_equal(found.inputs["token_ids"][:2], wanted.inputs["token_ids"][:2])
    np.testing.assert_array_equal(found.sample_weight, wanted.sample_weight * np.array([[1.0], [0.5], [0.0]]))
    # Weights of examples: the whole text is the prompt.
    for weights in (np.array([1.0, 2.0, 0.0]), np.array([[1.0], [2.0], [0.0]])):
        found = rolled_out(made, inputs, None, weights)
        np.testing.assert_array_equal(found.inputs["token_ids"], wanted.inputs["token_ids"])
        np.testing.assert_array_equal(found.sample_weight, wanted.sample_weight * weights.reshape(3, 1))


@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_loss_is_the_divergence_of_the_generated_tokens(jit_compile):
    """Against NumPy in float64; prompts do not count, and labels are missing where the student writes."""
    student, teacher = gpt2(1), gpt2(2)
    inputs, lengths = prompts()
    texts, written = greedy(student, inputs)
    window = {"token_ids": texts * written, "padding_mask": written}
    logs_s, logs_t = (log_softmax(model.predict(window, verbose=0)) for model in (student, teacher))
    divergence = (np.exp(logs_t) * (logs_t - logs_s)).sum(axis=-1)
    weights = weights_of(written, lengths)
    made = distiller(student, teacher, CROSSENTROPY, ["accuracy", Perplexity()], jit_compile=jit_compile, temperature=0)
    logs = made.fit(inputs, np.ones((3, WINDOW), "int32"), verbose=0).history
    np.testing.assert_allclose(logs["kd_loss"], [(weights * divergence).sum() / weights.sum()], rtol=1e-4)
    assert logs["supervised_loss"] == [0.0] and logs["accuracy"] == [0.0] and logs["perplexity"] == [1.0]


def test_texts_of_the_teacher_are_labels():
    student, teacher = gpt2(1), gpt2(2)
    inputs, lengths = prompts()
    texts, written = greedy(teacher, inputs)
    window = {"token_ids": texts * written, "padding_mask": written}
    logs = log_softmax(student.predict(window, verbose=0))
    following, weights = np.roll(texts, -1, axis=1), weights_of(written, lengths)
    nats = -np.take_along_axis(logs, following[..., None], axis=-1)[..., 0]
    made = distiller(student, teacher, CROSSENTROPY, writer="teacher", temperature=0)
    for labels in (None, np.ones((3, WINDOW), "int64")):
        found = made.fit(inputs, labels, verbose=0).history["supervised_loss"]
        np.testing.assert_allclose(found, [(weights * nats).sum() / weights.sum()], rtol=1e-4)


def test_validation_uses_the_given_completions():
    inputs, _ = prompts()
    labels = np.ones((3, WINDOW), "int32")
    made = distiller(loss=CROSSENTROPY)
    plain = Distiller(student=made.student, teacher=made.teacher.model, terms=[Term(KLDivergence(), name="kd")])
    plain.compile("sgd", CROSSENTROPY)
    found, wanted = (each.evaluate(inputs, labels, verbose=0, return_dict=True) for each in (made, plain))
    assert found["supervised_loss"] == wanted["supervised_loss"] > 0


def test_a_mixture_draws_from_both_models():
    """Logits are constants, so that the frequencies of the first token are known."""

    def constant(logits):
        tokens = keras.Input((None,), dtype="int32")
        outputs = keras.layers.Dense(4)(keras.layers.Embedding(4, 2)(tokens))
        model = keras.Model(tokens, outputs)
        model.set_weights([np.zeros((4, 2)), np.zeros((2, 4)), np.array(logits)])
        return model

    rows, mixture = 6000, {"writer": "mixture", "teacher_fraction": 0.3}
    models = constant([0, 0, 1, 3]), constant([0, 3, 0, 0])
    made = distiller(*models, stop_token_ids=[], max_length=2, **mixture)
    inputs = np.ones((rows, 1), "int32")
    found = rolled_out(made, inputs).inputs.numpy()
    counts = np.bincount(found[:, 1], minlength=4)
    student, teacher = (np.exp(log_softmax(np.array(logits))) for logits in ([0, 0, 1, 3], [0, 3, 0, 0]))
    # The padding, word 0, is never written.
    mixed = (0.7 * student + 0.3 * teacher)[1:]
    wanted = rows * mixed / mixed.sum()
    assert counts[0] == 0 and ((counts[1:] - wanted) ** 2 / wanted).sum() < 13.8
    assert found.shape == (rows, 2)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_some_steps_are_on_policy(jit_compile):
    inputs, lengths = prompts()
    labels = inputs["token_ids"].copy()
    weights = (np.arange(WINDOW) == lengths[:, None] - 2).astype("float32")
    made = distiller(loss=CROSSENTROPY, on_policy_fraction=0.5, jit_compile=jit_compile, seed=3)
    data = tf.data.Dataset.from_tensors((inputs, labels, weights)).repeat(24)
    losses = []
    made.fit(data, verbose=0, callbacks=[keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: losses.append(logs["supervised_loss"] * (batch + 1))
    )])  # fmt: skip
    given = np.diff([0.0, *losses])
    # Steps with given completions have the same supervised loss, those with the student's texts none.
    on_policy = np.isclose(given, 0, atol=1e-3)
    assert 6 <= on_policy.sum() <= 18
    np.testing.assert_allclose(given[~on_policy], given[~on_policy][0], rtol=1e-2)


def test_given_steps_are_unchanged():
    inputs, _ = prompts()
    made = distiller(on_policy_fraction=1e-9)
    labels, weights = inputs["token_ids"], inputs["padding_mask"].astype("float32")
    found = rolled_out(made, inputs, labels, weights)
    for one, other in ((found.inputs["token_ids"], labels), (found.labels, labels), (found.sample_weight, weights)):
        np.testing.assert_array_equal(one, other)


def test_texts_depend_on_seed_and_step():
    inputs, _ = prompts()

    def text(seed, step):
        made = distiller(seed=seed)
        for _ in range(step):
            made.optimizer.iterations.assign_add(1)
        return rolled_out(made, inputs).inputs["token_ids"].numpy().tolist()

    texts = [text(0, 0), text(0, 1), text(1, 0)]
    assert texts[0] == text(0, 0)
    assert all(texts[i] != texts[j] for i, j in ((0, 1), (0, 2), (1, 2)))


def test_training_continues_bit_for_bit_after_loading(tmp_path):
    inputs, _ = prompts()
    data = tf.data.Dataset.from_tensors((inputs,)).repeat(3)
    whole = distiller(rate=0.1, top_k=5, writer="mixture")
    whole.fit(data, verbose=0)
    whole.save(tmp_path / "distiller.keras")
    whole.fit(data, verbose=0)
    resumed = load_distiller(tmp_path / "distiller.keras", gpt2(2))
    assert resumed.rollouts.get_config() == whole.rollouts.get_config()
    resumed.fit(data, verbose=0)
    for one, other in zip(resumed.student.get_weights(), whole.student.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_student_learns_to_write_what_the_teacher_predicts():
    """A few steps of on-policy distillation lower the divergence on the student's own texts."""
    inputs, _ = prompts()
    made = distiller(gpt2(1, dtype="mixed_bfloat16"))
    made.compile(keras.optimizers.Adam(0.01))
    losses = made.fit(tf.data.Dataset.from_tensors((inputs,)).repeat(10), epochs=6, verbose=0).history["kd_loss"]
    assert losses[-1] < 0.5 * losses[0]


def test_hidden_states_and_selected_classes():
    inputs, _ = prompts()
    wanted = rolled_out(distiller(recurrent(1), recurrent(2), temperature=0), inputs["token_ids"])
    made = Distiller(
        student=HiddenStates(recurrent(1)),
        teacher=HiddenStates(recurrent(2)),
        terms=[Term("mse")],
        rollouts=Rollouts(stop_token_ids=END, temperature=0),
    )
    made.compile("sgd")
    np.testing.assert_array_equal(rolled_out(made, inputs["token_ids"]).inputs, wanted.inputs)
    wide = ModelTeacher(recurrent(2, words=WORDS + 3), classes=range(WORDS))
    found = rolled_out(distiller(recurrent(1), wide, writer="teacher"), inputs["token_ids"])
    assert found.inputs.numpy().max() < WORDS


@pytest.mark.replicas
def test_two_replicas_write_different_texts():
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], tf.distribute.ReductionToOneDevice())
    inputs, _ = prompts()
    same = keras.tree.map_structure(lambda array: np.repeat(array[:1], 2, axis=0), inputs)
    with strategy.scope():
        made = distiller(top_k=20)

    @tf.function
    def texts(batch):
        return made.training_batch(Batch(batch)).inputs["token_ids"]

    shared = strategy.experimental_distribute_dataset(tf.data.Dataset.from_tensors(same).unbatch().batch(2))
    first, second = strategy.experimental_local_results(strategy.run(texts, args=(next(iter(shared)),)))
    assert first.shape == second.shape == (1, WINDOW) and first.numpy().tolist() != second.numpy().tolist()


@pytest.mark.replicas
def test_two_replicas_match_one():
    """Greedy texts do not depend on the replica."""
    inputs, _ = prompts()
    inputs = keras.tree.map_structure(lambda array: np.concatenate([array, array[:1]]), inputs)
    weights = []
    for strategy in (None, tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], tf.distribute.ReductionToOneDevice())):
        with tf.distribute.get_strategy().scope() if strategy is None else strategy.scope():
            made = distiller(temperature=0, rate=0.1, on_policy_fraction=0.9)
        made.fit(tf.data.Dataset.from_tensors((inputs,)).unbatch().batch(4).repeat(3), verbose=0)
        weights.append(made.student.get_weights())
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"max_length": 1}, "max_length"),
        ({"on_policy_fraction": 0}, "on_policy_fraction"),
        ({"on_policy_fraction": 1.5}, "on_policy_fraction"),
        ({"writer": "both"}, "writer"),
        ({"teacher_fraction": 1}, "teacher_fraction"),
        ({"temperature": -1}, "temperature"),
        ({"stop_token_ids": [-1]}, "stop_token_ids"),
        ({"stop_token_ids": "end"}, "stop_token_ids"),
        ({"seed": 0.5}, "seed"),
    ],
)
def test_arguments_out_of_range(arguments, name):
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        Rollouts(**arguments)


def classifier():
    return keras.Sequential([keras.Input((None,), dtype="int32"), keras.layers.Embedding(WORDS, 4),
                             keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(WORDS)])  # fmt: skip


MODELS = {
    "no logits": (classifier, classifier, {}, r"logits of each token.*returns shape \(None, 30\)"),
    "hidden states": (
        lambda: gpt2(1).backbone, lambda: gpt2(2).backbone, {}, "hidden states of 8 numbers.*CausalLM"
    ),
    "images": (
        lambda: keras.Sequential([keras.Input((4, 4)), keras.layers.Dense(4)]),
        lambda: keras.Sequential([keras.Input((4, 4)), keras.layers.Dense(4)]), {}, "models of tokens",
    ),
    "fewer words": (lambda: recurrent(1, 40), lambda: recurrent(2), {}, "student has 40 words, its teacher 30"),
    "more words": (lambda: recurrent(1), lambda: recurrent(2, 40), {"writer": "teacher"}, "classes=range"),
    "no stop token": (lambda: recurrent(1), lambda: recurrent(2), {"stop_token_ids": None}, "No stop token"),
    "no such word": (lambda: recurrent(1), lambda: recurrent(2), {"stop_token_ids": 30}, r"must be words.*\[30\]"),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_models_that_cannot_write(name):
    student, teacher, arguments, message = MODELS[name]
    term = Term(UniversalLogitDistillation() if "words" in name else "mse")
    rollouts = Rollouts(**{"stop_token_ids": END} | arguments)
    with pytest.raises(ValueError, match=message):
        Distiller(student=student(), teacher=teacher(), terms=[term], rollouts=rollouts)


def test_stored_outputs_and_missing_teachers():
    student = recurrent(1)
    cached = CachedTeacher({"output": tf.TensorSpec((None, WINDOW, WORDS))})
    with pytest.raises(ValueError, match="stored teacher outputs"):
        Distiller(student=student, teacher=cached, rollouts=Rollouts(stop_token_ids=END))
    with pytest.raises(ValueError, match="no term needs a teacher"):
        Distiller(student=student, teacher=None, rollouts=Rollouts(stop_token_ids=END))
    for invalid in ({"max_length": 8}, Rollouts):
        with pytest.raises(ValueError, match=r"must be keras_distill.language.Rollouts\(\.\.\.\)"):
            Distiller(student=student, teacher=recurrent(2), rollouts=invalid)


@pytest.mark.filterwarnings("error:A distiller does not apply the preprocessor")
def test_stop_tokens_and_tokenizers_of_preprocessors():
    inputs, _ = prompts()
    student, teacher = gpt2(1), gpt2(2, gpt2_preprocessor())
    made = distiller(student, teacher, stop_token_ids=None, temperature=0)
    wanted = rolled_out(distiller(student, teacher, temperature=0), inputs)
    np.testing.assert_array_equal(rolled_out(made, inputs).inputs["token_ids"], wanted.inputs["token_ids"])
    other = gpt2_preprocessor()
    vocabulary = {part: index for index, part in enumerate(reversed(other.tokenizer.get_vocabulary()))}
    other.tokenizer.set_vocabulary_and_merges(vocabulary, ["a b"])
    with pytest.raises(ValueError, match="tokenizers of student and teacher differ"):
        distiller(gpt2(1, other), teacher)


def test_prompts_that_fill_the_window():
    inputs = {"token_ids": np.ones((2, WINDOW), "int32"), "padding_mask": np.ones((2, WINDOW), bool)}
    with pytest.raises(tf.errors.InvalidArgumentError, match="leave room for one in the window"):
        distiller().fit(inputs, verbose=0)


def test_losses_that_cannot_leave_out_the_students_texts():
    with pytest.raises(ValueError, match="does not read class indices.*SparseCategoricalCrossentropy"):
        distiller(loss=keras.losses.CategoricalCrossentropy(from_logits=True))


def test_prompts_without_responses():
    """Prompts as `generate_preprocess` packs them are continued to the end of the window."""
    preprocessor = gpt2_preprocessor()
    data = tf.data.Dataset.from_tensor_slices(["ab", "cde"]).batch(2).map(preprocessor.generate_preprocess)
    (inputs,) = data
    found = rolled_out(distiller(stop_token_ids=[], max_length=8), inputs)
    np.testing.assert_array_equal(found.inputs["padding_mask"], np.arange(WINDOW) < np.array([[8], [8]]))
    # A start token and one or three letters.
    np.testing.assert_array_equal(found.sample_weight.numpy().sum(axis=1), [6, 4])
    assert distiller().fit(data, verbose=0).history["kd_loss"][0] > 0
