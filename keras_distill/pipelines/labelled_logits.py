"""Labels, class names and teacher logits of a pipeline's examples."""

import math
import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from tfx import types
from tfx.utils import io_utils

from keras_distill.cache import packing
from keras_distill.data.batch import Batch
from keras_distill.data.labels import UNLABELLED
from keras_distill.pipelines import activations
from keras_distill.pipelines.reading import Features
from keras_distill.types import Tensor


class LabelledLogits:
    """Parser of serialized examples that returns labels and teacher logits, `(labels, logits)`.

    Labels are class indices, or texts that `classes` turns into indices. A label of -1, an empty text and an absent
    value are missing labels, returned as -1.

    Attributes:
        num_classes: Number of classes.
        output_shape: Shape of the logits of one example.
        class_names: `classes`; without them, the vocabulary of the label in the transform graph, or the class
            indices.

    Args:
        schema: `Schema` artifact of examples with teacher activations.
        label: Name of the feature with the labels, after the Transform if there is one.
        tap: Tap of the teacher's logits.
        transform_graph: `TransformGraph` artifact to apply to the examples. Defaults to None: no Transform.
        classes: Names of the classes. Defaults to None.

    Raises:
        ValueError: If there is no such label or no activations at this tap, or the classes do not match.
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
        self.num_classes = stored_taps[tap].shape[-1]
        self.output_shape = (self.num_classes,)
        self._is_text = self._features.transformed[label].dtype == tf.string
        names = [str(name) for name in classes or self._vocabulary() or range(self.num_classes)]
        self._check_classes(names, classes)
        self.class_names = names
        self._indices = {"": UNLABELLED, **{name: index for index, name in enumerate(names)}}

    def __call__(self, serialized: Tensor) -> tuple[np.ndarray, tf.Tensor]:
        parsed = tf.io.parse_example(serialized, {**self._sources, **activations.parsing_specs(self._stored_taps)})
        labels = self._labels(parsed)
        if self._is_text:
            labels = np.array([self._index(text.decode(errors="replace")) for text in labels], "int64")
        invalid = labels[(labels < UNLABELLED) | (labels >= self.num_classes)]
        if len(invalid):
            raise ValueError(
                f"The feature '{self._label}' must hold class indices from 0 to {self.num_classes - 1}, because the "
                f"teacher has {self.num_classes} classes, or {UNLABELLED} for a missing label. Received: {invalid[0]}"
            )
        outputs = self._teacher.activations(Batch(None, cached=activations.decode(parsed, self._stored_taps)))
        return labels, tf.cast(outputs[self._tap], "float32")

    def _labels(self, parsed):
        """Return the labels of a batch, indices or texts, shape `[batch]`."""
        values = self._features({name: parsed[name] for name in self._sources})[self._label]
        if isinstance(values, tf.RaggedTensor):
            values = values.to_sparse()
        if isinstance(values, tf.SparseTensor):
            # The batch is as wide as its longest row: 0 if no example has a label.
            rows, width = values.dense_shape.numpy()
            values = tf.sparse.reset_shape(values, [rows, max(width, 1)])
            values = tf.sparse.to_dense(values, "" if self._is_text else UNLABELLED)
        if values.shape.num_elements() != values.shape[0]:
            raise ValueError(
                f"The feature '{self._label}' must hold one class per example. Received: values of shape {values.shape}"
            )
        return tf.reshape(values, [-1]).numpy()

    def _index(self, text):
        if text not in self._indices:
            raise ValueError(
                f"The feature '{self._label}' holds the text '{text}', which is not one of the classes "
                f"{self.class_names}. Pass all texts as DistillationReport(classes=...), in the teacher's order."
            )
        return self._indices[text]

    def _check_label(self):
        features = self._features
        if self._label not in features.transformed:
            kind, advice = "transform graph", ""
            if features.graph is None:
                kind = "Schema"
                advice = (
                    " If a Transform makes the label, pass "
                    "DistillationReport(transform_graph=transform.outputs['transform_graph'])."
                )
            raise ValueError(
                f"The {kind} '{features.origin}' has no feature '{self._label}'. Available: "
                f"{sorted(features.transformed)}.{advice}"
            )
        dtype = features.transformed[self._label].dtype
        if not (dtype == tf.string or dtype.is_integer):
            raise ValueError(
                f"The feature '{self._label}' must hold class indices (integers) or class names (text). Received: "
                f"{dtype.name}. A Transform can cast it: tf.cast(inputs['{self._label}'], tf.int64)."
            )

    def _check_classes(self, names, classes):
        if self._is_text and not classes:
            raise ValueError(
                f"The feature '{self._label}' holds text. Pass its {self.num_classes} texts as "
                "DistillationReport(classes=...), in the order of the teacher's outputs."
            )
        if len(set(names) if self._is_text else names) != self.num_classes:
            different = " different" if self._is_text else ""
            raise ValueError(
                f"`classes` must be{different} names of the teacher's {self.num_classes} classes. Received: {names}"
            )

    def _vocabulary(self):
        """Return the vocabulary that makes the label, or None if there is none or several fit."""
        graph = self._features.graph
        if graph is None or self._is_text:
            return None
        folder = os.path.join(graph.transform_savedmodel_dir, tf.saved_model.ASSETS_DIRECTORY)
        files = tf.io.gfile.glob(os.path.join(folder, "*"))
        names = [os.path.basename(file).removesuffix(".tfrecord.gz") for file in files]
        # Other assets than vocabularies may have names that Transform does not find.
        names = [name for name in names if graph.vocabulary_file_by_name(name)]
        vocabularies = {name: tuple(graph.vocabulary_by_name(name)) for name in names}
        fitting = {name: terms for name, terms in vocabularies.items() if len(terms) == self.num_classes}
        if self._label in fitting:
            chosen = {fitting[self._label]}
        else:
            chosen = {terms for terms in fitting.values() if self._is_made_of(terms)}
        return [term.decode(errors="replace") for term in chosen.pop()] if len(chosen) == 1 else None

    def _is_made_of(self, terms):
        """Return whether the labels may be indices of the terms of a vocabulary."""
        if len(self._sources) != 1:
            # Transform annotates the results of `tft.compute_and_apply_vocabulary` with their range.
            domain = self._features.graph.transformed_domains().get(self._label)
            return domain is not None and domain.max == len(terms) - 1
        ((source, spec),) = self._sources.items()
        if spec.dtype != tf.string:
            return False
        # Transform the terms themselves.
        size = math.prod(getattr(spec, "shape", None) or [1])
        values = [tf.train.Feature(bytes_list=tf.train.BytesList(value=[term] * size)) for term in terms]
        examples = [tf.train.Example(features=tf.train.Features(feature={source: value})) for value in values]
        parsed = tf.io.parse_example([example.SerializeToString() for example in examples], self._sources)
        return np.array_equal(self._labels(parsed), range(len(terms)))
