"""Models of KerasHub, constructed from scaled configs."""

import keras
import keras_hub
import numpy as np
import pytest

from keras_distill.compression import shrink
from keras_distill.compression.config_scaling import pair_numbered_layers
from tests.support import shrinkable_models as models

pytestmark = pytest.mark.filterwarnings("ignore:`compile..` was not called")


def sizes(model, names):
    config = model.get_config()
    return [config[name] for name in names]


def test_the_config_of_a_backbone():
    small = shrink(models.hub_backbone(), 0.5, 0.5)
    names = ["vocabulary_size", "max_sequence_length", "num_layers", "num_heads", "hidden_dim", "intermediate_dim"]
    assert type(small) is keras_hub.models.BertBackbone
    assert sizes(small, names) == [30, 8, 2, 2, 32, 64]


@pytest.mark.parametrize(
    ("heads", "width", "expected"),
    [
        # The size of a head is kept where their number can be scaled.
        (4, 0.25, (1, 16)),
        (4, 0.5, (2, 32)),
        (4, 0.75, (3, 48)),
        # 1 head cannot be fewer, so that it gets narrower.
        (1, 0.5, (1, 32)),
        # 0.1 * 64 is rounded to a multiple of 4.
        (4, 0.1, (1, 8)),
    ],
)
def test_heads_divide_the_width(heads, width, expected):
    small = shrink(models.hub_backbone(num_heads=heads), width)
    assert tuple(sizes(small, ["num_heads", "hidden_dim"])) == expected


def test_grouped_query_attention():
    small = shrink(models.hub_language_model(), 0.5).backbone
    assert sizes(small, ["num_query_heads", "num_key_value_heads", "head_dim", "hidden_dim"]) == [2, 1, 16, 32]
    # A single key-value head cannot be scaled, so that the heads get smaller.
    heads = {"num_query_heads": 4, "num_key_value_heads": 1, "head_dim": 16}
    large = keras_hub.models.GemmaBackbone(30, 2, hidden_dim=64, intermediate_dim=128, **heads)
    small = shrink(large, 0.5)
    assert sizes(small, ["num_query_heads", "num_key_value_heads", "head_dim", "hidden_dim"]) == [4, 1, 8, 32]


def test_a_task_keeps_its_preprocessor(tmp_path):
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film"]
    tokenizer = keras_hub.models.BertTokenizer(vocabulary=vocabulary)
    preprocessor = keras_hub.models.BertTextClassifierPreprocessor(tokenizer, sequence_length=8)
    large = keras_hub.models.BertTextClassifier(models.hub_backbone(), num_classes=2, preprocessor=preprocessor)
    small = shrink(large, 0.5, 0.5)
    assert small.predict(["good film", "bad"], verbose=0).shape == (2, 2)
    small.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    texts = ["good film", "bad"]
    np.testing.assert_allclose(loaded.predict(texts, verbose=0), small.predict(texts, verbose=0), rtol=1e-5)


def test_layers_of_the_teacher_are_numbered_otherwise():
    large = models.hub_classifier()
    small = shrink(large, depth=0.5)
    for chosen in ([0, 2], [1, 3]):
        assert pair_numbered_layers(small, large, lambda blocks, fraction, chosen=chosen: chosen) == [
            ("bert_backbone/transformer_layer_0", f"bert_backbone/transformer_layer_{chosen[0]}"),
            ("bert_backbone/transformer_layer_1", f"bert_backbone/transformer_layer_{chosen[1]}"),
        ]


def test_copies_every_second_layer():
    large = models.hub_classifier()
    small = shrink(large, 0.5, 0.5, copy=True)
    for student, teacher in ((0, 0), (1, 2)):
        pair = [
            model.backbone.get_layer(f"transformer_layer_{number}")._feedforward_intermediate_dense.kernel
            for model, number in ((small, student), (large, teacher))
        ]
        np.testing.assert_array_equal(pair[0], np.asarray(pair[1])[:32, :64])


def test_a_backbone_inside_of_a_model_with_outputs_of_its_width():
    backbone = models.hub_backbone()
    inputs = {
        name: keras.Input(tensor.shape[1:], dtype=tensor.dtype, name=name) for name, tensor in backbone.input.items()
    }
    pooled = backbone(inputs)["pooled_output"]
    model = keras.Model(inputs, [pooled, keras.layers.Dense(3)(keras.layers.Dense(64, name="hidden")(pooled))])
    small = shrink(model, 0.5)
    # Its width is that of an output.
    assert small.get_layer(backbone.name).hidden_dim == 64 and small.get_layer("hidden").units == 32


def test_settings_that_the_config_of_keras_hub_leaves_out():
    sizes = {"vocabulary_size": 30, "num_layers": 2, "hidden_dim": 16, "intermediate_dim": 32}
    heads = {"num_query_heads": 2, "num_key_value_heads": 2}
    model = keras_hub.models.Llama3Backbone(**sizes, **heads, tie_word_embeddings=True)
    small = shrink(model, depth=0.5)
    assert small.tie_word_embeddings and small.token_embedding.tie_weights
    assert len(small.weights) == len(model.weights) - 9
