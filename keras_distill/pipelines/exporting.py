"""A student as other components of a pipeline, and TensorFlow Serving, take it."""

import keras
import tensorflow as tf

from keras_distill.models.specs import input_specs
from keras_distill.models.taps import OUTPUT, Taps

SERVING, TENSORS, ACTIVATIONS = "serving_default", "tensors", "activations"


def export(model, reader, path):
    """Writes a SavedModel that takes examples as they are in the pipeline, without labels or activations.

    ```
    serving_default    serialized examples -> {"output": logits}           Evaluator, BulkInferrer, Pusher, Serving
    tensors            the model's own inputs -> {"output": logits}
    activations        serialized examples -> {tap: activation}            TeacherLabeller
    ```

    Args:
        model: The Keras model, built.
        reader: A `Reader`, which brings the preprocessing; its settings name the taps.
        path: Where to.
    """
    archive = keras.export.ExportArchive()
    archive.track(model)
    if reader.transform is not None:
        archive.track(reader.transform)
    taps = Taps(model, reader.settings.taps)
    examples = [tf.TensorSpec([None], tf.string, name="examples")]
    archive.add_endpoint(SERVING, lambda examples: _named(model, reader.inputs(examples)), examples)
    archive.add_endpoint(TENSORS, lambda inputs: _named(model, inputs), [_called_with(model)])
    archive.add_endpoint(ACTIVATIONS, lambda examples: dict(taps(reader.inputs(examples), training=False)), examples)
    archive.write_out(path, verbose=False)


def _called_with(model):
    """The model's inputs as `tf.TensorSpec`s; the entries of a dictionary keep their names."""
    specs = input_specs(None, model)
    if not isinstance(specs, dict):
        return specs
    return {name: tf.TensorSpec(spec.shape, spec.dtype, name) for name, spec in specs.items()}


def _named(model, inputs):
    """What the model returns, by name."""
    outputs = model(inputs, training=False)
    if isinstance(outputs, dict):
        return outputs
    if isinstance(outputs, (list, tuple)):
        return dict(zip(model.output_names, outputs))
    return {OUTPUT: outputs}
