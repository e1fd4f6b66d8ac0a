"""Labels, class names and teacher logits of a pipeline's examples."""

import math
import os

import numpy as np
import tensorflow as tf

from keras_distill.data.labels import UNLABELLED
from keras_distill.pipelines.labelled_outputs import LabelledOutputs


class LabelledLogits(LabelledOutputs):
    """Parser of serialized examples that returns labels and teacher logits, `(labels, logits)`.

    Labels are class indices, or texts that `classes` turns into indices. A label of -1, an empty text and an absent
    value are missing labels, returned as -1.

    Attributes:
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

    def _labels(self, parsed):
        """Return the labels of a batch as class indices, shape `[batch]`."""
        labels = self._indices_or_texts(self._values(parsed))
        if self._is_text:
            labels = np.array([self._index(text.decode(errors="replace")) for text in labels], "int64")
        invalid = labels[(labels < UNLABELLED) | (labels >= self._num_classes)]
        if len(invalid):
            raise ValueError(
                f"The feature '{self._label}' must hold class indices from 0 to {self._num_classes - 1}, because the "
                f"teacher has {self._num_classes} classes, or {UNLABELLED} for a missing label. Received: {invalid[0]}"
            )
        return labels

    def _indices_or_texts(self, values):
        """Return the values of the label feature, shape `[batch]`."""
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

    @property
    def _is_text(self):
        return self._features.transformed[self._label].dtype == tf.string

    @property
    def _num_classes(self):
        return self.output_shape[-1]

    def _names(self, classes):
        names = [str(name) for name in classes or self._vocabulary() or range(self._num_classes)]
        self._check_classes(names, classes)
        self._indices = {"": UNLABELLED, **{name: index for index, name in enumerate(names)}}
        return names

    def _check_classes(self, names, classes):
        if self._is_text and not classes:
            raise ValueError(
                f"The feature '{self._label}' holds text. Pass its {self._num_classes} texts as "
                "DistillationReport(classes=...), in the order of the teacher's outputs."
            )
        if len(set(names) if self._is_text else names) != self._num_classes:
            different = " different" if self._is_text else ""
            raise ValueError(
                f"`classes` must be{different} names of the teacher's {self._num_classes} classes. Received: {names}"
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
        fitting = {name: terms for name, terms in vocabularies.items() if len(terms) == self._num_classes}
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
