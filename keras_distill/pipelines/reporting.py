"""DistillationReport: what a student of a pipeline has learnt of its teacher."""

import json
import os
import time

import numpy as np
import tensorflow as tf
from tensorflow_transform.tf_metadata import schema_utils
from tfx import types
from tfx.dsl.components.base import base_component, base_executor, executor_spec
from tfx.types import artifact_utils, standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter
from tfx.utils import io_utils

from keras_distill.data.batch import Batch
from keras_distill.data.labels import UNLABELLED
from keras_distill.metrics import Agreement, TeacherDivergence
from keras_distill.models.taps import OUTPUT
from keras_distill.pipelines import activations, artifacts
from keras_distill.pipelines.exporting import SERVING
from keras_distill.pipelines.reading import read_schema, serialized
from keras_distill.report import ModelResult, Results, Run, write_page
from keras_distill.saving import runs

TEACHER = "teacher"
# Names in the report: the component's inputs, and the roles of `ModelResult`.
_INPUTS = {TEACHER: "base_model", "student alone": "baseline_model", "student distilled": "model"}
_ROLES = {TEACHER: "teacher", "student alone": "alone", "student distilled": "distilled"}
_BATCH = 256


class DistillationReportSpec(ComponentSpec):
    """What goes into a DistillationReport and comes out of it."""

    INPUTS = {
        "examples": ChannelParameter(type=standard_artifacts.Examples),
        "schema": ChannelParameter(type=standard_artifacts.Schema),
        "model": ChannelParameter(type=standard_artifacts.Model),
        "base_model": ChannelParameter(type=standard_artifacts.Model),
        "baseline_model": ChannelParameter(type=standard_artifacts.Model, optional=True),
    }
    # A type of our own could not be named in Kubeflow's specification: that wants a class at the top of a package.
    OUTPUTS = {"report": ChannelParameter(type=standard_artifacts.ModelEvaluation)}
    PARAMETERS = {
        "label": ExecutionParameter(type=str),
        "split": ExecutionParameter(type=str),
        "temperature": ExecutionParameter(type=float),
        "classes": ExecutionParameter(type=str),
        "tap": ExecutionParameter(type=str),
        "versions": ExecutionParameter(type=str),
    }


class Executor(base_executor.BaseExecutor):
    """Asks the models about each example and counts."""

    def Do(self, input_dict, output_dict, exec_properties):
        """See `DistillationReport`.

        Raises:
            ValueError: If examples and models do not fit together.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        started = time.time()
        label, split, temperature = (exec_properties[key] for key in ("label", "split", "temperature"))
        examples, schema = (artifact_utils.get_single_instance(input_dict[key]) for key in ("examples", "schema"))
        models = {
            name: artifacts.signature(artifact_utils.get_single_instance(input_dict[key]), SERVING)
            for name, key in _INPUTS.items()
            if input_dict.get(key)
        }
        pattern = artifacts.patterns(examples, [split])[split]
        lesson = LabelledLogits(schema, label, exec_properties["tap"])
        tallies = {name: _Tally(lesson.classes, temperature) for name in models}
        for batch in serialized([pattern]).batch(_BATCH):
            labels, taught = lesson(batch)
            for name, model in models.items():
                logits = taught if name == TEACHER else _logits(name, model, batch, lesson.classes)
                tallies[name].add(labels, taught, logits)

        metrics = {
            f"{name}, {metric}": value for name, tally in tallies.items() for metric, value in tally.metrics().items()
        }
        report = artifact_utils.get_single_instance(output_dict["report"])
        results = Results(
            title="Distillation",
            description=_sentence(tallies, temperature),
            settings={"label": label, "temperature": temperature, **{name: f"{metrics[name]:.4f}" for name in metrics}},
            classes=json.loads(exec_properties["classes"]) or [str(number) for number in range(lesson.classes)],
            models=[
                ModelResult(name, _ROLES[name], model.parameters, [tallies[name].run()])
                for name, model in models.items()
            ],
            temperature=temperature,
            command=f"DistillationReport of the split '{split}' of {examples.uri}",
            seconds=time.time() - started,
            seeds=[],
        )
        results.save(os.path.join(report.uri, "results.json"))
        write_page(results, os.path.join(report.uri, "report.html"))
        io_utils.write_string_file(os.path.join(report.uri, "metrics.json"), json.dumps(metrics, indent=2))
        for name, value in metrics.items():
            report.set_float_custom_property(name, value)


class DistillationReport(base_component.BaseComponent):
    """Compares a student with its teacher, and with the same student that learnt from labels alone.

    ```python
    DistillationReport(
        examples=labeller.outputs["labelled_examples"],
        schema=labeller.outputs["labelled_schema"],
        model=student.outputs["model"],
        base_model=teacher.outputs["model"],
        baseline_model=alone.outputs["model"],
        label="label",
    )
    ```

    For each model its accuracy; for the students also their agreement with the teacher (the share of examples that
    both give the same class) and the divergence from it:

    ```
    divergence = mean of KL(softmax(z_t / T) || softmax(z_s / T)), in nats
    ```

    Component `outputs` contains:

    - `report`: a `ModelEvaluation` with `report.html`, `results.json`, of which it was made, and `metrics.json`; these
      numbers are custom properties of the artifact, too.

    Args:
        examples: Channel of labelled `Examples`; the teacher does not run again.
        schema: Channel of their `Schema`.
        model: Channel of the student's `Model`, as `run_fn` exports it.
        base_model: Channel of the teacher's.
        label: The feature that holds the class numbers.
        baseline_model: Channel of the `Model` of a student that had no teacher.
        split: Of the examples. Defaults to "eval".
        temperature: `T`. Defaults to 4.
        classes: Their names. Defaults to their numbers.
        tap: Which of the teacher's activations are its logits. Defaults to "output".
    """

    SPEC_CLASS = DistillationReportSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        examples,
        schema,
        model,
        base_model,
        label,
        baseline_model=None,
        split="eval",
        temperature=4.0,
        classes=None,
        tap=OUTPUT,
    ):
        spec = DistillationReportSpec(
            examples=examples,
            schema=schema,
            model=model,
            base_model=base_model,
            baseline_model=baseline_model,
            report=types.Channel(type=standard_artifacts.ModelEvaluation),
            label=label,
            split=split,
            temperature=temperature,
            classes=artifacts.text(classes),
            tap=tap,
            versions=artifacts.text(runs.versions()),
        )
        super().__init__(spec=spec)


class LabelledLogits:
    """Labels and the teacher's logits, `(labels, logits)`, of serialized examples.

    Attributes:
        classes: How many there are.
    """

    def __init__(self, schema, label, tap):
        path = io_utils.get_only_uri_in_dir(schema.uri)
        schema = read_schema(path)
        features = schema_utils.schema_as_feature_spec(schema).feature_spec
        stored_taps = activations.stored_taps_from_schema(schema)
        if label not in features:
            raise ValueError(f"The Schema '{path}' has no feature '{label}'. There: {sorted(features)}.")
        if tap not in stored_taps:
            raise ValueError(
                f"The Schema '{path}' knows of no activations at '{tap}', but at {sorted(stored_taps)}. Pass "
                "labelled_schema and labelled_examples of a TeacherLabeller."
            )
        self._label, self._tap, self._stored_taps = label, tap, {tap: stored_taps[tap]}
        self._parsing = {label: features[label], **activations.parsing(self._stored_taps)}
        self._teacher = activations.teacher(self._stored_taps)
        self._teacher.connect([tap])
        self.classes = stored_taps[tap].shape[-1]

    def __call__(self, examples):
        parsed = tf.io.parse_example(examples, self._parsing)
        labels = tf.reshape(parsed[self._label], [-1]).numpy()
        strange = labels[(labels < UNLABELLED) | (labels >= self.classes)]
        if len(strange):
            raise ValueError(
                f"The feature '{self._label}' has the label {strange[0]}, but the teacher has {self.classes} classes, "
                "the first being 0."
            )
        said = self._teacher.activations(Batch(None, cached=activations.decode(parsed, self._stored_taps)))
        return labels, tf.cast(said[self._tap], "float32")


class _Tally:
    """What one model said, summed up over batches. Examples without a label count for all but the accuracy."""

    def __init__(self, classes, temperature):
        self._confusion = np.zeros((classes, classes), int)
        self._agreement, self._divergence = Agreement(), TeacherDivergence(temperature)

    def add(self, labels, taught, logits):
        guesses = np.argmax(logits, -1)
        known = labels != UNLABELLED
        np.add.at(self._confusion, (labels[known], guesses[known]), 1)
        for metric in (self._agreement, self._divergence):
            metric.update_state(logits, taught)

    def metrics(self):
        return {
            "accuracy": self.run().accuracy,
            "agreement": float(self._agreement.result()),
            "divergence": float(self._divergence.result()),
        }

    def run(self):
        examples, right = int(self._confusion.sum()), int(np.trace(self._confusion))
        return Run(0, right / max(examples, 1), examples - right, confusion=self._confusion.tolist())


def _logits(name, model, examples, classes):
    outputs = model(examples)
    if OUTPUT not in outputs or outputs[OUTPUT].shape[1:] != (classes,):
        shapes = {key: tuple(spec.shape) for key, spec in model.outputs.items()}
        raise ValueError(
            f"The model of '{name}' gives {shapes}, but the teacher's logits are of {classes} classes: '{OUTPUT}' of "
            f"shape {(None, classes)} is compared with them."
        )
    return tf.cast(outputs[OUTPUT], "float32")


def _sentence(tallies, temperature):
    """Agreement and divergence of the students, in words."""
    found = {name: tally.metrics() for name, tally in tallies.items() if name != TEACHER}
    agreement = ", ".join(f"{name} {100 * metrics['agreement']:.1f} %" for name, metrics in found.items())
    divergence = ", ".join(f"{name} {metrics['divergence']:.3f} nats" for name, metrics in found.items())
    return f"Same class as the teacher: {agreement}. Divergence at T = {temperature:g}: {divergence}."
