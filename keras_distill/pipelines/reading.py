"""Reading of a pipeline's examples, for training and for serving."""

from collections.abc import Sequence

import tensorflow as tf
import tensorflow_transform as tft
from tensorflow_metadata.proto.v0 import schema_pb2
from tensorflow_transform.tf_metadata import schema_utils
from tfx.utils import io_utils

from keras_distill.cache import packing
from keras_distill.data.batch import with_activations
from keras_distill.pipelines import activations
from keras_distill.pipelines.saved import Signature
from keras_distill.pipelines.settings import Settings
from keras_distill.types import Structure, Tensor


class Features:
    """Features of a pipeline's examples, before and after an optional Transform.

    Attributes:
        schema: The `Schema` of the examples.
        origin: Path of the transform graph, or of the Schema without one.
        raw: `{name: parsing specification}` of the features before the Transform, without teacher activations.
        transformed: The same for the features after the Transform; without one, all features of the Schema.
        transform: The Keras layer of the transform graph, or None. An exported model must track it.
        graph: The `tft.TFTransformOutput`, or None.

    Args:
        schema_path: Path of the `Schema` of the examples.
        transform_graph: Directory of a `TransformGraph` to apply to the examples. Defaults to None: no Transform.
    """

    def __init__(self, schema_path: str, transform_graph: str | None = None):
        self.schema = read_schema(schema_path)
        self.origin = transform_graph or schema_path
        self.transform = self.graph = None
        raw = self.transformed = schema_utils.schema_as_feature_spec(self.schema).feature_spec
        if transform_graph is not None:
            self.graph = tft.TFTransformOutput(transform_graph)
            self.transform = self.graph.transform_features_layer()
            raw, self.transformed = self.graph.raw_feature_spec(), self.graph.transformed_feature_spec()
        self.raw = {name: spec for name, spec in raw.items() if not name.startswith(activations.PREFIX)}

    def __call__(self, parsed: Structure) -> Structure:
        """Return the transformed features of a batch of parsed ones.

        Args:
            parsed: `{name: tensor}` of raw features. The Transform leaves out features that it cannot make of them.
        """
        return parsed if self.transform is None else dict(self.transform(parsed))

    def label_sources(self, label: str | None) -> tuple[list[str], list[str]]:
        """Return the raw features that the label depends on, and those of them that nothing else depends on.

        The latter are unknown in serving. A Transform may make the label of other features.

        Args:
            label: Name of the label after the Transform, or None.
        """
        if label is None or self.transform is None:
            sources = [label] if label in self.raw else []
            return sources, sources
        everything = self._names(self.raw)
        lost = {
            name: everything - self._names({key: self.raw[key] for key in self.raw if key != name}) for name in self.raw
        }
        sources = [name for name in self.raw if label in lost[name]]
        return sources, [name for name in sources if lost[name] == {label}]

    def _names(self, raw):
        """Return the names of the transformed features that some raw features suffice for."""
        if not raw:
            return set()
        parse = tf.function(lambda serialized: self(tf.io.parse_example(serialized, raw)))
        return set(parse.get_concrete_function(tf.TensorSpec([None], tf.string)).structured_outputs)


class Reader:
    """Parser of serialized examples that returns model inputs, labels and teacher activations.

    Attributes:
        stored_taps: `{tap: StoredTap}` of the teacher activations; empty without a teacher.
        settings: The `Settings`.
        transform: The Keras layer of the transform graph, or None. An exported model must track it.

    Args:
        schema_path: Path of the `Schema` of the examples. For examples with teacher activations, the `labelled_schema`
            of a TeacherLabeller.
        settings: A `Settings`.
        transform_graph: Directory of a `TransformGraph` to apply to the examples. Defaults to None: no Transform.
        teacher: A `Signature` that computes the teacher activations, instead of stored ones. Defaults to None.

    Raises:
        ValueError: If the Schema or the transform graph has no feature of a name that the settings use.
    """

    def __init__(
        self,
        schema_path: str,
        settings: Settings,
        transform_graph: str | None = None,
        teacher: Signature | None = None,
    ):
        self.settings = settings
        available = self._transformed = Features(schema_path, transform_graph)
        self.transform, raw = available.transform, available.raw
        label = [] if settings.label is None else [settings.label]
        sources, only_label = available.label_sources(settings.label)
        features = [name for name in raw if name not in only_label]
        if settings.features is not None:
            features = list(settings.features)
        _check_available(features, raw, schema_path)
        _check_available(label, available.transformed, available.origin)
        self._features = {name: raw[name] for name in features}
        self._label = {name: raw[name] for name in sources}
        self._teacher = teacher
        self.stored_taps = activations.stored_taps_from_schema(available.schema)
        if teacher is not None:
            self.stored_taps = packing.stored_taps(teacher.outputs, "float32", None)
        # Without terms, the stored activations are not parsed.
        self._parsed_taps = self.stored_taps if teacher is None and settings.terms is not None else {}

    def inputs(self, serialized: Tensor) -> Structure:
        """Return the model's inputs for a batch of serialized examples. The examples need no label.

        Args:
            serialized: Serialized examples, strings of shape `[batch]`.
        """
        return self._preprocessed(self._transformed(tf.io.parse_example(serialized, self._features)))

    def element(self, serialized: Tensor) -> Structure:
        """Return one element of a dataset for `fit`.

        Args:
            serialized: Serialized examples, strings of shape `[batch]`.

        Returns:
            `(inputs, labels)`, or `inputs` if the settings have no label. If the settings have terms, `inputs` include
            the teacher activations.
        """
        settings = self.settings
        parsed = tf.io.parse_example(serialized, self._needed())
        features = self._transformed({name: parsed[name] for name in {**self._features, **self._label}})
        labels = None if settings.label is None else _squeeze_labels(features.pop(settings.label))
        inputs = self._preprocessed(features)
        if settings.terms is not None:
            if self._teacher is None:
                outputs = activations.decode(parsed, self._parsed_taps)
            else:
                outputs = self._teacher(serialized)
            inputs = with_activations(inputs, outputs)
        return inputs if labels is None else (inputs, labels)

    def check(self, patterns: Sequence[str]) -> None:
        """Check that files have examples, and that the first example has all features.

        Args:
            patterns: File patterns.

        Raises:
            ValueError: If no file matches, the files are empty, or the first example lacks a feature.
        """
        features = tf.train.Example.FromString(first_example(patterns)).features.feature
        needed = [name for name, spec in self._needed().items() if isinstance(spec, tf.io.FixedLenFeature)]
        missing = [name for name in needed if not features[name].WhichOneof("kind")]
        if missing:
            # Without the missing ones: reading an absent key above has added it to the protobuf map.
            available = sorted(name for name in features if name not in missing)
            raise ValueError(f"The examples at {patterns} have no features {missing}. Available: {available}.")

    def _needed(self):
        return {**self._features, **self._label, **activations.parsing_specs(self._parsed_taps)}

    def _preprocessed(self, features):
        preprocessing = self.settings.resolve("preprocessing")
        if preprocessing is not None:
            return preprocessing(features)
        return next(iter(features.values())) if len(features) == 1 else features


def read_schema(path: str) -> schema_pb2.Schema:
    """Return the `Schema` in a file."""
    return io_utils.parse_pbtxt_file(path, schema_pb2.Schema())


def read_examples(patterns: Sequence[str]) -> tf.data.Dataset:
    """Return a dataset of the serialized examples in files, in a fixed order.

    Args:
        patterns: File patterns.

    Returns:
        A `tf.data.Dataset` of scalar strings.

    Raises:
        ValueError: If no file matches.
    """
    files = sorted(file for pattern in patterns for file in tf.io.gfile.glob(pattern))
    if not files:
        raise ValueError(f"There are no examples at {patterns}: no file matches.")
    return tf.data.TFRecordDataset(files, "GZIP" if files[0].endswith(".gz") else "")


def with_cardinality(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Return the dataset with its cardinality set.

    Otherwise `fit` would learn the number of steps only when the data run out, with a warning.

    Args:
        dataset: A finite `tf.data.Dataset`. It is read once.
    """
    count = dataset.reduce(tf.constant(0, tf.int64), lambda count, _: count + 1)
    return dataset.apply(tf.data.experimental.assert_cardinality(count))


def first_example(patterns: Sequence[str]) -> bytes:
    """Return the first serialized example in files, as bytes.

    Args:
        patterns: File patterns.

    Raises:
        ValueError: If no file matches, or the files are empty.
    """
    for example in read_examples(patterns).take(1):
        return example.numpy()
    raise ValueError(f"There are no examples at {patterns}: the files are empty.")


def _check_available(names, specs, origin):
    missing = [name for name in names if name not in specs]
    if missing:
        raise ValueError(f"'{origin}' has no features {missing}. Available: {sorted(specs)}.")


def _squeeze_labels(labels):
    """Remove the axis of length one that a Schema gives to scalar labels."""
    return tf.squeeze(labels, -1) if labels.shape.rank == 2 and labels.shape[-1] == 1 else labels
