"""Export of trained models for Evaluator, BulkInferrer, Pusher, TeacherLabeller and TensorFlow Serving."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import keras
import tensorflow as tf

from keras_distill.models.specs import input_specs
from keras_distill.models.taps import OUTPUT, Taps

if TYPE_CHECKING:
    from keras_distill.pipelines.reading import Reader

SERVING, TENSORS, ACTIVATIONS = "serving_default", "tensors", "activations"


def export(model: keras.Model, reader: Reader, path: str | os.PathLike) -> None:
    """Export a model as a SavedModel that takes the pipeline's examples, without labels or teacher activations.

    ```
    serving_default    serialized examples -> {"output": logits}           Evaluator, BulkInferrer, Pusher, Serving
    tensors            the model's own inputs -> {"output": logits}
    activations        serialized examples -> {tap: activation}            TeacherLabeller
    ```

    Args:
        model: The Keras model, built.
        reader: The `Reader` of the training examples. Its preprocessing becomes part of the SavedModel; its settings
            name the taps of the "activations" signature.
        path: Directory of the SavedModel.
    """
    archive = keras.export.ExportArchive()
    archive.track(model)
    if reader.transform is not None:
        archive.track(reader.transform)
    taps = Taps(model, reader.settings.taps)
    examples = [tf.TensorSpec([None], tf.string, name="examples")]
    archive.add_endpoint(SERVING, lambda examples: _outputs_by_name(model, reader.inputs(examples)), examples)
    archive.add_endpoint(TENSORS, lambda inputs: _outputs_by_name(model, inputs), [_input_signature(model)])
    archive.add_endpoint(ACTIVATIONS, lambda examples: dict(taps(reader.inputs(examples), training=False)), examples)
    archive.write_out(path, verbose=False)


def _input_signature(model):
    """Return the model's inputs as `tf.TensorSpec`s. Entries of a dictionary keep their names."""
    specs = input_specs(None, model)
    if not isinstance(specs, dict):
        return specs
    return {name: tf.TensorSpec(spec.shape, spec.dtype, name) for name, spec in specs.items()}


def _outputs_by_name(model, inputs):
    """Return the model's outputs as `{name: tensor}`."""
    outputs = model(inputs, training=False)
    if isinstance(outputs, dict):
        return outputs
    if isinstance(outputs, list | tuple):
        return dict(zip(model.output_names, outputs))
    return {OUTPUT: outputs}
