"""Language models read from GGUF files."""

import keras
import numpy as np
import pytest

gguf = pytest.importorskip("gguf")
pytest.importorskip("keras_hub")

from recipes import smollm2  # noqa: E402

WORDS = ["<|endoftext|>", "a", "b", "c", "ab", "Ġ", "Ġa"]
HEADS, KEY_HEADS, SIZE, HIDDEN, INNER = 4, 2, 4, 16, 24


def matrices():
    """Weights as published, outputs first, by their names in the file."""
    random = np.random.default_rng(0)
    shapes = {"token_embd": (len(WORDS), HIDDEN), "output_norm": (HIDDEN,)}
    for number in range(2):
        shapes |= {
            f"blk.{number}.attn_q": (HEADS * SIZE, HIDDEN),
            f"blk.{number}.attn_k": (KEY_HEADS * SIZE, HIDDEN),
            f"blk.{number}.attn_v": (KEY_HEADS * SIZE, HIDDEN),
            f"blk.{number}.attn_output": (HIDDEN, HEADS * SIZE),
            f"blk.{number}.ffn_gate": (INNER, HIDDEN),
            f"blk.{number}.ffn_up": (INNER, HIDDEN),
            f"blk.{number}.ffn_down": (HIDDEN, INNER),
            f"blk.{number}.attn_norm": (HIDDEN,),
            f"blk.{number}.ffn_norm": (HIDDEN,),
        }
    return {name: random.normal(size=shape).astype("float32") for name, shape in shapes.items()}


def interleaved(matrix, heads):
    """The order in which converters to GGUF write the rows of queries and keys."""
    return matrix.reshape(heads, 2, SIZE // 2, -1).swapaxes(1, 2).reshape(matrix.shape)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_rope_freq_base(1e5)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_token_list(WORDS)
    writer.add_token_merges(["a b", "Ġ a"])
    for name, matrix in matrices().items():
        heads = {"q": HEADS, "k": KEY_HEADS}.get(name[-1]) if name[-6:] in ("attn_q", "attn_k") else None
        writer.add_tensor(f"{name}.weight", matrix if heads is None else interleaved(matrix, heads))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def forward(tokens):
    """Hidden states of a Llama by NumPy in float64, from the published weights."""
    weights = {name: matrix.astype("float64") for name, matrix in matrices().items()}
    length = len(tokens)
    angles = np.arange(length)[:, None] * 1e5 ** (-np.arange(0, SIZE, 2) / SIZE)
    cosine, sine = (np.concatenate([each, each], axis=1)[:, None] for each in (np.cos(angles), np.sin(angles)))

    def norm(x, scale):
        return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-5) * scale

    def rotate(x):
        first, second = np.split(x, 2, axis=-1)
        return x * cosine + np.concatenate([-second, first], axis=-1) * sine

    x = weights["token_embd"][tokens]
    for number in range(2):
        of = {name.split(".")[2]: matrix for name, matrix in weights.items() if name.startswith(f"blk.{number}.")}
        states = norm(x, of["attn_norm"])
        query = rotate((states @ of["attn_q"].T).reshape(length, HEADS, SIZE))
        key = rotate((states @ of["attn_k"].T).reshape(length, KEY_HEADS, SIZE)).repeat(HEADS // KEY_HEADS, axis=1)
        value = (states @ of["attn_v"].T).reshape(length, KEY_HEADS, SIZE).repeat(HEADS // KEY_HEADS, axis=1)
        scores = np.einsum("qhd,khd->hqk", query, key) / np.sqrt(SIZE)
        scores = np.where(np.tril(np.ones((length, length), bool)), scores, -np.inf)
        weight = np.exp(scores - scores.max(axis=-1, keepdims=True))
        attended = np.einsum("hqk,khd->qhd", weight / weight.sum(axis=-1, keepdims=True), value)
        x = x + attended.reshape(length, -1) @ of["attn_output"].T
        states = norm(x, of["ffn_norm"])
        gate = states @ of["ffn_gate"].T
        x = x + (gate / (1 + np.exp(-gate)) * (states @ of["ffn_up"].T)) @ of["ffn_down"].T
    return norm(x, weights["output_norm"])


def test_hidden_states_are_those_of_the_published_weights(file):
    model = smollm2.load(file)
    tokens = np.array([1, 3, 2, 5, 1])
    hidden = model.backbone({"token_ids": tokens[None], "padding_mask": np.ones((1, 5), "int32")})
    np.testing.assert_allclose(hidden[0], forward(tokens), rtol=2e-4, atol=2e-4)
    assert model.separator == 0
    assert np.asarray(model.tokenizer("ab a")).tolist() == [4, 6]


def test_a_file_keeps_the_embeddings_tied(file, tmp_path):
    backbone = smollm2.load(file).backbone
    backbone.save(tmp_path / "backbone.keras")
    loaded = keras.saving.load_model(tmp_path / "backbone.keras")
    assert len(loaded.weights) == len(backbone.weights)
    inputs = {"token_ids": np.array([[1, 2]]), "padding_mask": np.ones((1, 2), "int32")}
    np.testing.assert_array_equal(loaded(inputs), backbone(inputs))
