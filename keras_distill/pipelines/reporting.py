"""TFX component DistillationReport: compare a student with its teacher and with a baseline."""

import json
import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tfx import types
from tfx.dsl.components.base import base_component, base_executor, executor_spec
from tfx.types import artifact_utils, standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter
from tfx.utils import io_utils

from keras_distill.data.labels import UNLABELLED
from keras_distill.metrics import Agreement, TeacherDivergence
from keras_distill.models.taps import OUTPUT
from keras_distill.pipelines import artifacts
from keras_distill.pipelines.exporting import SERVING
from keras_distill.pipelines.labelled_logits import LabelledLogits
from keras_distill.pipelines.reading import read_examples
from keras_distill.report import ModelResult, Results, Run, write_page
from keras_distill.report.evaluation import MOST_CLASSES
from keras_distill.saving import runs
from keras_distill.utils.formatting import format_percent

TEACHER = "teacher"
# The component's input for each role of `ModelResult`. The role is also the model's name in the report.
_INPUTS = {TEACHER: "base_model", "baseline": "baseline_model", "distilled": "model"}
_BATCH_SIZE = 256


class DistillationReportSpec(ComponentSpec):
    """Inputs, outputs and parameters of a DistillationReport."""

    INPUTS = {
        "examples": ChannelParameter(type=standard_artifacts.Examples),
        "schema": ChannelParameter(type=standard_artifacts.Schema),
        "model": ChannelParameter(type=standard_artifacts.Model),
        "base_model": ChannelParameter(type=standard_artifacts.Model),
        "baseline_model": ChannelParameter(type=standard_artifacts.Model, optional=True),
        "transform_graph": ChannelParameter(type=standard_artifacts.TransformGraph, optional=True),
    }
    # No custom artifact type: Kubeflow's specification can only name classes at the top level of a package.
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
    """Evaluate the models and write the report."""

    def Do(  # noqa: N802 (TFX calls this method)
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Evaluate the models and write the report. See `DistillationReport`.

        Args:
            input_dict: `{input: [artifact]}`.
            output_dict: `{output: [artifact]}`.
            exec_properties: `{parameter: value}`.

        Raises:
            ValueError: If the examples, models and parameters do not match.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        start_time = time.time()
        label, split, temperature = (exec_properties[key] for key in ("label", "split", "temperature"))
        examples, schema = (artifact_utils.get_single_instance(input_dict[key]) for key in ("examples", "schema"))
        models = {
            name: artifacts.load_signature(artifact_utils.get_single_instance(input_dict[key]), SERVING)
            for name, key in _INPUTS.items()
            if input_dict.get(key)
        }
        pattern = artifacts.split_patterns(examples, [split])[split]
        graphs = input_dict.get("transform_graph")
        labels_and_logits = LabelledLogits(
            schema,
            label,
            exec_properties["tap"],
            artifact_utils.get_single_instance(graphs) if graphs else None,
            json.loads(exec_properties["classes"]),
        )
        num_classes = labels_and_logits.num_classes
        model_metrics = {name: _ModelMetrics(num_classes, temperature) for name in models}
        for batch in read_examples([pattern]).batch(_BATCH_SIZE):
            labels, teacher_logits = labels_and_logits(batch)
            for name, model in models.items():
                logits = teacher_logits if name == TEACHER else _logits(name, model, batch, num_classes)
                model_metrics[name].update(labels, teacher_logits, logits)

        metrics = {
            f"{name}, {metric}": value
            for name, single in model_metrics.items()
            for metric, value in single.metrics().items()
        }
        report = artifact_utils.get_single_instance(output_dict["report"])
        results = Results(
            title="Distillation",
            description=_description(model_metrics, temperature),
            settings={"label": label, "temperature": temperature, **{name: f"{metrics[name]:.4f}" for name in metrics}},
            classes=labels_and_logits.class_names,
            models=[
                ModelResult(name, name, model.parameters, [model_metrics[name].run()]) for name, model in models.items()
            ],
            temperature=temperature,
            command=f"DistillationReport of the split '{split}' of {examples.uri}",
            seconds=time.time() - start_time,
            seeds=[],
        )
        results.save(os.path.join(report.uri, "results.json"))
        write_page(results, os.path.join(report.uri, "report.html"))
        io_utils.write_string_file(os.path.join(report.uri, "metrics.json"), json.dumps(metrics, indent=2))
        for name, value in metrics.items():
            report.set_float_custom_property(name, value)


class DistillationReport(base_component.BaseComponent):
    """Component that compares a student with its teacher, and with a baseline trained on labels alone.

    Reports the accuracy of each model. For the students it also reports the agreement with the teacher (fraction of
    examples for which both predict the same class) and the divergence from the teacher:

    ```
    divergence = mean of KL(softmax(z_t / T) || softmax(z_s / T)), in nats
    ```

    Component `outputs` contains:

    - `report`: a `ModelEvaluation` artifact with the page `report.html`, its data `results.json`, and `metrics.json`.
      The metrics are also custom properties of the artifact, such as "distilled, accuracy".

    Example:

    >>> from tfx.v1.dsl import Channel
    >>> from tfx.v1.types.standard_artifacts import Examples, Model, Schema, TransformGraph
    >>> from keras_distill.pipelines.reporting import DistillationReport
    >>> report = DistillationReport(
    ...     examples=Channel(type=Examples),  # labeller.outputs["labelled_examples"]
    ...     schema=Channel(type=Schema),  # labeller.outputs["labelled_schema"]
    ...     model=Channel(type=Model),  # student.outputs["model"]
    ...     base_model=Channel(type=Model),  # teacher.outputs["model"]
    ...     transform_graph=Channel(type=TransformGraph),  # transform.outputs["transform_graph"]
    ...     label="label",
    ... )

    Args:
        examples: Channel of `Examples` with teacher activations; the teacher does not run again.
        schema: Channel of the `Schema` of these examples.
        model: Channel of the student's `Model`, as `run_fn` exports it.
        base_model: Channel of the teacher's `Model`.
        label: Name of the feature with the class labels: integer class indices, or text with `classes`. With a
            `transform_graph`, the name after the Transform. A label of -1 and an empty text are missing labels: these
            examples do not count for the accuracy.
        baseline_model: Channel of the `Model` of a student trained without a teacher. Defaults to None: no baseline.
        split: Name of the split to evaluate. Defaults to "eval".
        temperature: Softmax temperature `T` of the divergence, > 0. 1 to 4 is typical. Defaults to 4.0.
        classes: Names of the classes, in the order of the teacher's outputs, such as `["no", "yes"]`. Required for
            labels that are text: these are the names. Defaults to None: the vocabulary from which the Transform makes
            the label, the one with the label's name or the only one that fits; without one, the class indices.
        tap: Tap of the teacher's logits. Defaults to "output".
        transform_graph: Channel of the `TransformGraph` that the Trainers use. Required if a Transform makes the label.
            Defaults to None: the examples have the label.

    Raises:
        ValueError: When the node runs, if the label does not exist or is neither integer nor text, a text is not in
            `classes`, or the number of `classes` or of the outputs of a model is not the teacher's.
    """

    SPEC_CLASS = DistillationReportSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        examples: types.BaseChannel,
        schema: types.BaseChannel,
        model: types.BaseChannel,
        base_model: types.BaseChannel,
        label: str | artifacts.RuntimeValue,
        baseline_model: types.BaseChannel | None = None,
        split: str | artifacts.RuntimeValue = "eval",
        temperature: float | artifacts.RuntimeValue = 4.0,
        classes: Sequence[str] | artifacts.RuntimeValue | None = None,
        tap: str | artifacts.RuntimeValue = OUTPUT,
        transform_graph: types.BaseChannel | None = None,
    ):
        spec = DistillationReportSpec(
            examples=examples,
            schema=schema,
            model=model,
            base_model=base_model,
            baseline_model=baseline_model,
            transform_graph=transform_graph,
            report=types.Channel(type=standard_artifacts.ModelEvaluation),
            label=label,
            split=split,
            temperature=temperature,
            classes=artifacts.to_json(classes),
            tap=tap,
            versions=artifacts.to_json(runs.versions()),
        )
        super().__init__(spec=spec)


class _ModelMetrics:
    """Metrics of one model, accumulated over batches. Unlabeled examples count for all metrics but the accuracy."""

    def __init__(self, num_classes, temperature):
        self._confusion = np.zeros((num_classes, num_classes), int)
        self._agreement, self._divergence = Agreement(), TeacherDivergence(temperature)

    def update(self, labels, teacher_logits, logits):
        predictions = np.argmax(logits, -1)
        labeled = labels != UNLABELLED
        np.add.at(self._confusion, (labels[labeled], predictions[labeled]), 1)
        for metric in (self._agreement, self._divergence):
            metric.update_state(logits, teacher_logits)

    def metrics(self):
        return {
            "accuracy": self.run().accuracy,
            "agreement": float(self._agreement.result()),
            "divergence": float(self._divergence.result()),
        }

    def run(self):
        examples, correct = int(self._confusion.sum()), int(np.trace(self._confusion))
        confusion = self._confusion.tolist() if len(self._confusion) <= MOST_CLASSES else None
        return Run(0, correct / max(examples, 1), examples - correct, confusion=confusion)


def _logits(name, model, serialized, num_classes):
    outputs = model(serialized)
    if OUTPUT not in outputs or outputs[OUTPUT].shape[1:] != (num_classes,):
        shapes = {key: tuple(spec.shape) for key, spec in model.outputs.items()}
        raise ValueError(
            f"The model '{name}' must output logits of the teacher's {num_classes} classes, '{OUTPUT}' of shape "
            f"{(None, num_classes)}. Received: {shapes}"
        )
    return tf.cast(outputs[OUTPUT], "float32")


def _description(model_metrics, temperature):
    """Return one sentence for the agreement and one for the divergence of the students."""
    students = {name: single.metrics() for name, single in model_metrics.items() if name != TEACHER}
    agreement = ", ".join(f"{name} {format_percent(metrics['agreement'])}" for name, metrics in students.items())
    divergence = ", ".join(f"{name} {metrics['divergence']:.3f} nats" for name, metrics in students.items())
    return f"Agreement with the teacher: {agreement}. Divergence from the teacher at T = {temperature:g}: {divergence}."
