"""`copy_weights` between models whose automatic names differ, and of attention heads."""

import warnings

import keras
import keras_hub
import numpy as np
import pytest

from keras_distill.compression import copy_weights

VOCABULARY = 20


def randomized(model, seed=0):
    random = np.random.default_rng(seed)
    model.set_weights([random.normal(size=weight.shape) for weight in model.get_weights()])
    return model


def gpt2(num_layers=2):
    backbone = keras_hub.models.GPT2Backbone(VOCABULARY, num_layers, 2, 8, 16, max_sequence_length=8)
    return keras_hub.models.GPT2CausalLM(backbone)


def tokens():
    ids = np.arange(10).reshape(2, 5) + 1
    return {"token_ids": ids, "padding_mask": np.ones_like(ids)}


@pytest.mark.case("D2")
def test_tasks_of_one_architecture():
    teacher, student = randomized(gpt2()), randomized(gpt2(), seed=1)
    assert teacher.backbone.name != student.backbone.name
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = copy_weights(student, teacher)
    assert {row.status for row in rows} == {"copied"}
    np.testing.assert_array_equal(student(tokens()), teacher(tokens()))


@pytest.mark.case("D2")
def test_a_shallower_task():
    teacher, student = randomized(gpt2(3)), randomized(gpt2(2), seed=1)
    copy_weights(student, teacher)
    for name in ("token_embedding", "position_embedding", "transformer_layer_0", "transformer_layer_1", "layer_norm"):
        copied, source = (model.backbone.get_layer(name).get_weights() for model in (student, teacher))
        assert copied
        for one, other in zip(copied, source, strict=True):
            np.testing.assert_array_equal(one, other)


def stack(widths, names=None):
    layers = [keras.layers.Dense(width, name=names and names[i]) for i, width in enumerate(widths)]
    return randomized(keras.Sequential([keras.Input((3,)), *layers]), seed=len(widths))


@pytest.mark.case("D2")
def test_layers_without_names_correspond_in_their_order():
    teacher, student = stack([4, 5, 2]), stack([4, 5, 2])
    copy_weights(student, teacher)
    x = np.ones((1, 3), "float32")
    np.testing.assert_array_equal(student(x), teacher(x))


@pytest.mark.case("D2")
def test_given_names_are_compared_with_their_numbers():
    teacher, student = stack([3, 3, 3], ["block_0", "block_1", "block_2"]), stack([3], ["block_2"])
    copy_weights(student, teacher)
    np.testing.assert_array_equal(student.layers[0].kernel, teacher.layers[2].kernel)


@pytest.mark.case("D2")
def test_weights_without_a_source_are_warned_of():
    teacher, student = stack([4, 2], ["a", "b"]), stack([4, 5, 2], ["a", "new", "b"])
    with pytest.warns(UserWarning, match="3 weights of .* keep their values.* new/kernel, new/bias, b/kernel. Pass"):
        copy_weights(student, teacher)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copy_weights(student, teacher, [("a", "a")], unpaired=False)


def llama(query_heads, key_value_heads, size):
    return keras_hub.models.LlamaBackbone(
        vocabulary_size=VOCABULARY,
        num_layers=1,
        num_query_heads=query_heads,
        num_key_value_heads=key_value_heads,
        hidden_dim=query_heads * size,
        intermediate_dim=16,
    )


@pytest.mark.case("D3")
def test_rotary_heads_of_another_size_raise():
    teacher, student = randomized(llama(2, 2, 8)), randomized(llama(2, 2, 4), seed=1)
    before = student.get_weights()
    with pytest.raises(ValueError, match="heads of size 4, the teacher's have 8. Rotary") as error:
        copy_weights(student, teacher)
    for one, other in zip(before, student.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    # The advice works.
    assert "`unpaired=False`" in str(error.value)
    assert copy_weights(student, teacher, [("token_embedding", "token_embedding")], unpaired=False)


@pytest.mark.case("D3")
def test_fewer_rotary_heads_of_the_same_size_are_copied():
    teacher, student = randomized(llama(4, 4, 8)), randomized(llama(2, 2, 8), seed=1)
    copy_weights(student, teacher)
    query, source = (
        next(weight for weight in model.weights if weight.path.endswith("query/kernel")) for model in (student, teacher)
    )
    np.testing.assert_array_equal(query, np.array(source)[:16, :2])


def grouped(query_heads, key_value_heads, size=4, name="attention"):
    inputs = keras.Input((5, 8))
    layer = keras.layers.GroupQueryAttention(size, query_heads, key_value_heads, name=name)
    return randomized(keras.Model(inputs, layer(inputs, inputs)), seed=query_heads)


@pytest.mark.case("D3")
@pytest.mark.parametrize(("student_heads", "kept"), [((2, 2), [0, 2]), ((1, 1), [0]), ((2, 1), [0, 1])])
def test_query_heads_stay_with_their_key_value_head(student_heads, kept):
    teacher, student = grouped(4, 2), grouped(*student_heads)
    copy_weights(student, teacher)
    # A teacher whose other query heads do not contribute to the output.
    attention = teacher.get_layer("attention")
    (output,) = [weight for weight in attention.weights if weight.path.endswith("attention_output/kernel")]
    values = np.array(output)
    values[[head for head in range(4) if head not in kept]] = 0
    output.assign(values)
    x = np.random.default_rng(0).normal(size=(2, 5, 8)).astype("float32")
    np.testing.assert_allclose(student(x), teacher(x), rtol=1e-4, atol=1e-5)


@pytest.mark.case("D3")
def test_query_heads_of_kerashub_stay_with_their_key_value_head():
    teacher, student = randomized(llama(4, 2, 8)), randomized(llama(2, 2, 8), seed=1)
    copy_weights(student, teacher)
    weights = [{w.path.split("self_attention/")[-1]: np.array(w) for w in m.weights} for m in (student, teacher)]
    np.testing.assert_array_equal(weights[0]["query/kernel"], weights[1]["query/kernel"][:16, [0, 2]])
    np.testing.assert_array_equal(
        weights[0]["attention_output/kernel"], weights[1]["attention_output/kernel"][[0, 2], :, :16]
    )
    np.testing.assert_array_equal(weights[0]["key/kernel"], weights[1]["key/kernel"][:16])


@pytest.mark.case("D3")
def test_gemma_has_its_heads_on_another_axis():
    def gemma(heads):
        return keras_hub.models.GemmaBackbone(VOCABULARY, 1, heads, 1, 8, 16, 8)

    teacher, student = randomized(gemma(4)), randomized(gemma(2), seed=1)
    copy_weights(student, teacher)
    query, source = (next(w for w in m.weights if w.path.endswith("query/kernel")) for m in (student, teacher))
    np.testing.assert_array_equal(query, np.array(source)[:2])


@pytest.mark.case("D3")
def test_more_query_heads_per_key_value_head_raise():
    with pytest.raises(ValueError, match="4 query heads per key-value head, the teacher's has 2"):
        copy_weights(grouped(4, 1), grouped(4, 2))
    with pytest.raises(ValueError, match="'attention' of the student has 4 query heads"):
        copy_weights(grouped(4, 1), grouped(4, 2), [("attention", "attention")])
