"""Examples of a pipeline as `fit` and a served model take them."""

import tensorflow as tf
import tensorflow_transform as tft
from tensorflow_metadata.proto.v0 import schema_pb2
from tensorflow_transform.tf_metadata import schema_utils
from tfx.utils import io_utils

from keras_distill.cache import packing
from keras_distill.data.batch import with_activations
from keras_distill.pipelines import activations


class Reader:
    """Makes inputs, labels and a teacher's activations of serialized examples.

    Attributes:
        stored_taps: `{tap: StoredTap}` of the activations that the examples contain.
        transform: The Keras layer of the transform graph, or None. A model that is exported with it must track it.

    Args:
        schema: File of the examples' `Schema`, as a TeacherLabeller extends it where they are labelled.
        settings: A `Settings`.
        transform_graph: Folder of a `TransformGraph`, through which the examples go first; None if through none.
        teacher: A `Signature` that gives the activations, in place of those that lie in the examples.

    Raises:
        ValueError: If the Schema lacks a feature that is needed.
    """

    def __init__(self, schema, settings, transform_graph=None, teacher=None):
        self.settings = settings
        self.transform = None
        read = read_schema(schema)
        given = schema_utils.schema_as_feature_spec(read).feature_spec
        made = given
        if transform_graph is not None:
            output = tft.TFTransformOutput(transform_graph)
            self.transform = output.transform_features_layer()
            given, made = output.raw_feature_spec(), output.transformed_feature_spec()
        given = {name: spec for name, spec in given.items() if not name.startswith(activations.PREFIX)}
        label = [] if settings.label is None else [settings.label]
        used = [name for name in given if name not in label] if settings.features is None else list(settings.features)
        for names, there, origin in ((used, given, schema), (label, made, transform_graph or schema)):
            missing = [name for name in names if name not in there]
            if missing:
                raise ValueError(f"'{origin}' has no features {missing}. There: {sorted(there)}.")
        self._features = {name: given[name] for name in used}
        self._label = {name: given[name] for name in label if name in given}
        self._teacher = teacher
        self.stored_taps = activations.stored_taps_from_schema(read)
        if teacher is not None:
            self.stored_taps = packing.stored_taps(teacher.outputs, "float32", None)
        # A student that learns from labels alone has no use for them.
        self._stored = self.stored_taps if teacher is None and settings.terms is not None else {}

    def inputs(self, serialized):
        """The model's inputs for a batch of serialized examples, which need no label."""
        return self._preprocessed(self._transformed(tf.io.parse_example(serialized, self._features)))

    def element(self, serialized):
        """What `fit` takes of a batch of serialized examples; activations come along where there are terms."""
        settings = self.settings
        parsed = tf.io.parse_example(serialized, self._needed())
        features = self._transformed({name: parsed[name] for name in {**self._features, **self._label}})
        labels = None if settings.label is None else _flat(features.pop(settings.label))
        inputs = self._preprocessed(features)
        if settings.terms is not None:
            said = activations.decode(parsed, self._stored) if self._teacher is None else self._teacher(serialized)
            inputs = with_activations(inputs, said)
        return inputs if labels is None else (inputs, labels)

    def check(self, patterns):
        """Refuses files without examples, or whose first one lacks what is needed.

        Raises:
            ValueError: Naming the files and the feature.
        """
        first = tf.train.Example.FromString(first_of(patterns))
        there = first.features.feature
        needed = [name for name, spec in self._needed().items() if isinstance(spec, tf.io.FixedLenFeature)]
        missing = [name for name in needed if not there[name].WhichOneof("kind")]
        if missing:
            raise ValueError(
                f"The examples at {patterns} have no features {missing}. There: "
                f"{sorted(name for name in there if name not in missing)}."
            )

    def _needed(self):
        return {**self._features, **self._label, **activations.parsing(self._stored)}

    def _transformed(self, features):
        return features if self.transform is None else dict(self.transform(features))

    def _preprocessed(self, features):
        preprocessing = self.settings.function("preprocessing")
        if preprocessing is not None:
            return preprocessing(features)
        return next(iter(features.values())) if len(features) == 1 else features


def read_schema(path):
    """The `Schema` in a file."""
    return io_utils.parse_pbtxt_file(path, schema_pb2.Schema())


def serialized(patterns):
    """The serialized examples of files, one by one and always in the same order: a `tf.data.Dataset`.

    Args:
        patterns: What the files' paths match.

    Raises:
        ValueError: If there is no such file.
    """
    files = sorted(file for pattern in patterns for file in tf.io.gfile.glob(pattern))
    if not files:
        raise ValueError(f"There are no examples at {patterns}: no files.")
    return tf.data.TFRecordDataset(files, "GZIP" if files[0].endswith(".gz") else "")


def counted(dataset):
    """A `tf.data.Dataset` that knows its length, so that `fit` need not find out by running out of data."""
    count = dataset.reduce(tf.constant(0, tf.int64), lambda count, _: count + 1)
    return dataset.apply(tf.data.experimental.assert_cardinality(count))


def first_of(patterns):
    """The first of the serialized examples.

    Raises:
        ValueError: If there is none.
    """
    for example in serialized(patterns).take(1):
        return example.numpy()
    raise ValueError(f"There are no examples at {patterns}: the files are empty.")


def _flat(labels):
    """Class numbers that a Schema has as lists of one."""
    return tf.squeeze(labels, -1) if labels.shape.rank == 2 and labels.shape[-1] == 1 else labels
