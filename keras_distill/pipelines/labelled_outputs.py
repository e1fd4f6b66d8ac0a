"""Numeric labels and teacher outputs of a pipeline's examples."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from tfx import types
from tfx.utils import io_utils

from keras_distill.cache import packing
from keras_distill.data.batch import Batch
from keras_distill.pipelines import activations
from keras_distill.pipelines.reading import Features
from keras_distill.types import Tensor


class LabelledOutputs:
    """Parser of serialized examples that returns numeric labels and teacher outputs, `(labels, outputs)`.

    Attributes:
        output_shape: Shape of the teacher's outputs for one example.
        class_names: `classes`; without them, the numbers of the outputs.

    Args:
        schema: `Schema` artifact of examples with teacher activations.
        label: Name of the feature with the labels, after the Transform if there is one.
        tap: Tap of the teacher's outputs.
        transform_graph: `TransformGraph` artifact to apply to the examples. Defaults to None: no Transform.
        classes: Names of the components of the labels. Defaults to None.

    Raises:
        ValueError: If there is no such label of fixed shape, or no activations at this tap.
    """

    def __init__(
        self,
        schema: types.Artifact,
        label: str,
        tap: str,
        transform_graph: types.Artifact | None = None,
        classes: Sequence[str] | None = None,
    ):
        path = io_utils.get_only_uri_in_dir(schema.uri)
        self._features = Features(path, None if transform_graph is None else transform_graph.uri)
        stored_taps = activations.stored_taps_from_schema(self._features.schema)
        self._label, self._tap = label, tap
        self._check_label()
        if tap not in stored_taps:
            raise ValueError(
                f"The Schema '{path}' has no teacher activations at '{tap}'. Available: {sorted(stored_taps)}. Pass "
                "`labelled_schema` and `labelled_examples` of a TeacherLabeller."
            )
        self._stored_taps = {tap: stored_taps[tap]}
        sources, _ = self._features.label_sources(label)
        self._sources = {name: self._features.raw[name] for name in sources}
        self._teacher = packing.cached_teacher(self._stored_taps)
        self._teacher.connect([tap])
        self.output_shape = tuple(stored_taps[tap].shape)
        self.class_names = self._names(classes)

    def __call__(self, serialized: Tensor) -> tuple[np.ndarray, tf.Tensor]:
        parsed = tf.io.parse_example(serialized, {**self._sources, **activations.parsing_specs(self._stored_taps)})
        labels = self._labels(parsed)
        outputs = self._teacher.activations(Batch(None, cached=activations.decode(parsed, self._stored_taps)))
        return labels, tf.cast(outputs[self._tap], "float32")

    def _check_label(self):
        spec = self._features.transformed.get(self._label)
        if not isinstance(spec, tf.io.FixedLenFeature) or spec.dtype == tf.string:
            raise ValueError(
                f"The label '{self._label}' must be a number or a vector of fixed length in '{self._features.origin}'. "
                f"Received: {spec}. Available: {sorted(self._features.transformed)}"
            )

    def _names(self, classes):
        return [str(name) for name in classes or range(self.output_shape[-1])]

    def _values(self, parsed):
        """Return the label feature of a batch."""
        return self._features({name: parsed[name] for name in self._sources})[self._label]

    def _labels(self, parsed):
        """Return the labels of a batch as an array."""
        return tf.cast(self._values(parsed), "float32").numpy()
