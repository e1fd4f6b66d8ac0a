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

from keras_distill.experiment import Classification, ModelResult, Results, bootstrap, compare
from keras_distill.experiment.evaluation import Evaluator
from keras_distill.metrics import TeacherDivergence
from keras_distill.models.taps import OUTPUT
from keras_distill.pipelines import artifacts
from keras_distill.pipelines.exporting import SERVING
from keras_distill.pipelines.labelled_logits import LabelledLogits
from keras_distill.pipelines.labelled_outputs import LabelledOutputs
from keras_distill.pipelines.reading import read_examples
from keras_distill.pipelines.settings import CLASSIFICATION, resolve_task
from keras_distill.report import write_page
from keras_distill.saving import runs

TEACHER, BASELINE, DISTILLED = "teacher", "baseline", "distilled"
# The component's input for each role of `ModelResult`. The role is also the model's name in the report.
_INPUTS = {TEACHER: "base_model", BASELINE: "baseline_model", DISTILLED: "model"}
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
        "task": ExecutionParameter(type=str),
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
        graph = artifact_utils.get_single_instance(graphs) if graphs else None
        task = resolve_task(exec_properties["task"])
        classes, tap = json.loads(exec_properties["classes"]), exec_properties["tap"]
        if isinstance(task, Classification):
            parser = LabelledLogits(schema, label, tap, graph, classes)
        else:
            parser = LabelledOutputs(schema, label, tap, graph, classes)
        batches = [(*parser(batch), batch) for batch in read_examples([pattern]).batch(_BATCH_SIZE)]
        labels, outputs = _outputs(batches, models, parser.output_shape)
        evaluator = Evaluator(task, labels, outputs[TEACHER])
        evaluations = {name: evaluator.evaluate(outputs[name]) for name in models}
        divergence_temperature = temperature if isinstance(task, Classification) else None
        metrics = _metrics(evaluations, evaluator.score.name, outputs, divergence_temperature)
        report = artifact_utils.get_single_instance(output_dict["report"])
        results = Results(
            title="Distillation",
            description=_description(metrics, list(models), evaluator.score, temperature),
            settings={"label": label, "temperature": temperature, **{name: f"{metrics[name]:.4f}" for name in metrics}},
            models=[
                ModelResult(
                    name, name, model.parameters, [evaluations[name].run(0)], baselines=_baselines(name, models)
                )
                for name, model in models.items()
            ],
            command=f"DistillationReport of the split '{split}' of {examples.uri}",
            seconds=time.time() - start_time,
            seeds=[0],
            score=evaluator.score,
            classes=parser.class_names if evaluations[TEACHER].per_class is not None else [],
            comparisons=_comparisons(task, evaluations),
            split=split,
            num_examples=evaluator.num_examples,
            temperature=temperature,
        )
        results.save(os.path.join(report.uri, "results.json"))
        write_page(results, os.path.join(report.uri, "report.html"))
        io_utils.write_string_file(os.path.join(report.uri, "metrics.json"), json.dumps(metrics, indent=2))
        for name, value in metrics.items():
            report.set_float_custom_property(name, value)


class DistillationReport(base_component.BaseComponent):
    """Component that compares a student with its teacher, and with a baseline trained on labels alone.

    Reports the score of each model on the labeled examples, such as the accuracy. For the students it also reports the
    agreement with the teacher on all examples (the score with the teacher's predictions as labels) and, for a
    classification, the divergence from the teacher:

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
        temperature: Softmax temperature `T` of the divergence, > 0. 1 to 4 is typical. Defaults to 1.0.
        classes: Names of the classes, in the order of the teacher's outputs, such as `["no", "yes"]`. Required for
            labels that are text: these are the names. Defaults to None: the vocabulary from which the Transform makes
            the label, the one with the label's name or the only one that fits; without one, the class indices.
        tap: Tap of the teacher's outputs. Defaults to "output".
        task: Function that returns the `experiment.Task`, as "package.module:function", such as
            "keras_distill.experiment:Regression". Labels of other tasks than a classification are numbers: one value or
            a vector of fixed length per example, NaN for a missing one. Defaults to a classification.
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
        temperature: float | artifacts.RuntimeValue = 1.0,
        classes: Sequence[str] | artifacts.RuntimeValue | None = None,
        tap: str | artifacts.RuntimeValue = OUTPUT,
        transform_graph: types.BaseChannel | None = None,
        task: str | artifacts.RuntimeValue = CLASSIFICATION,
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
            task=task,
            versions=artifacts.to_json(runs.versions()),
        )
        super().__init__(spec=spec)


def _outputs(batches, models, shape):
    """Return the labels, and `{name: outputs}` of teacher and students, for all examples."""
    labels, outputs = [], {name: [] for name in models}
    for batch_labels, teacher_outputs, serialized in batches:
        labels.append(batch_labels)
        for name, model in models.items():
            outputs[name].append(teacher_outputs if name == TEACHER else _predict(name, model, serialized, shape))
    return np.concatenate(labels), {name: np.concatenate(listed) for name, listed in outputs.items()}


def _predict(name, model, serialized, shape):
    outputs = model(serialized)
    if OUTPUT not in outputs or outputs[OUTPUT].shape[1:] != shape:
        shapes = {key: tuple(spec.shape) for key, spec in model.outputs.items()}
        raise ValueError(
            f"The model '{name}' must have outputs like the teacher's, '{OUTPUT}' of shape {(None, *shape)}. Received: "
            f"{shapes}"
        )
    return tf.cast(outputs[OUTPUT], "float32")


def _metrics(evaluations, score, outputs, temperature):
    """Return `{"model, metric": value}`: score, agreement and, for a classification, divergence from the teacher."""
    metrics = {}
    for name, evaluation in evaluations.items():
        metrics[f"{name}, {score}"] = evaluation.score
        if evaluation.agreement is not None:
            metrics[f"{name}, agreement"] = evaluation.agreement
            if temperature is not None:
                divergence = TeacherDivergence(temperature)
                divergence.update_state(outputs[name], outputs[TEACHER])
                metrics[f"{name}, divergence"] = float(divergence.result())
    return metrics


def _baselines(name, models):
    return [BASELINE] if name == DISTILLED and BASELINE in models else []


def _comparisons(task, evaluations):
    """Compare the distilled student with the baseline: one seed, so an interval over the examples only."""
    if BASELINE not in evaluations:
        return []
    own, other = evaluations[DISTILLED], evaluations[BASELINE]
    interval = bootstrap(task.score_of, [own.records], [other.records])
    return [compare(DISTILLED, [own.score], BASELINE, [other.score], example_interval=interval)]


def _description(metrics, names, score, temperature):
    """Return one sentence for the agreement and one for the divergence of the students."""
    students = [name for name in names if name != TEACHER]
    agreement = ", ".join(f"{name} {score.text(metrics[f'{name}, agreement'])}" for name in students)
    divergence = [f"{name} {metrics[key]:.3f} nats" for name in students if (key := f"{name}, divergence") in metrics]
    sentences = [f"Agreement with the teacher: {agreement}."]
    if divergence:
        sentences.append(f"Divergence from the teacher at T = {temperature:g}: {', '.join(divergence)}.")
    return " ".join(sentences)
