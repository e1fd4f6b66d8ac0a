"""TFX pipeline: train a teacher, cache its outputs, tune and distill a student, evaluate it and push it.

    ExampleGen, StatisticsGen, SchemaGen, ExampleValidator      the data; digits also go through Transform
    Trainer.teacher, TeacherLabeller                            the teacher, and its outputs as features of the examples
    Tuner, Trainer.student, Trainer.baseline                    the distilled student, and a baseline trained on labels
    DistillationReport                                          agreement, divergence, accuracy: report.html
    Evaluator.previous                                          blesses a student as good as the one pushed before
    Evaluator.teacher                                           blesses a student close to the teacher in every class
    BulkInferrer, Pusher                                        run only if both Evaluators bless the student

A second run only reruns the nodes whose inputs or code have changed. The recipe needs TFX, on Linux with Python 3.10 to
3.13 (tested with 3.11). On Debian 13, Ubuntu 24.04 or newer:

    pip install "tfx[kfp]==1.21.0" "apache-beam>=2.70" dill scikit-learn matplotlib jinja2

On older systems, `.ci/environment VENV` makes an environment.

Run:    python -m recipes.tfx_pipeline
        python -m recipes.tfx_pipeline --dataset=fashion_mnist --originals=FOLDER
        python -m recipes.tfx_pipeline --runner=kubeflow --image=IMAGE --root=gs://BUCKET/FOLDER
Result: accuracy on the test split, agreement with the teacher and divergence from it at T = 2; one seed. The Tuner
        chooses the temperature and the weight of the term on the eval split; nothing else is tuned.
        digits: teacher 98.4 %; baseline 97.4 %, 98.0 %, 0.188 nats; distilled 97.2 %, 98.0 %, 0.059 nats
        Fashion-MNIST: teacher 88.7 %; baseline 78.1 %, 79.8 %, 0.231 nats; distilled 78.4 %, 81.7 %, 0.155 nats
        With all labels, the distilled students are closer to their teacher. The differences in accuracy are within
        chance.
Time:   3 minutes for digits, 8 for Fashion-MNIST, on 2 shared cores of an AMD EPYC; half a minute for a second run
"""

import json
import pathlib
from typing import Any

import tensorflow_model_analysis as tfma
import yaml
from absl import app, flags, logging
from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2
from tfx import v1 as tfx
from tfx.v1 import components, proto

from keras_distill.pipelines.labelling import TeacherLabeller
from keras_distill.pipelines.reporting import DistillationReport
from keras_distill.pipelines.settings import Settings

from . import data, tfx_examples

# TFX imports the models by name.
MODELS = f"{__package__}.tfx_models"

DATASET = flags.DEFINE_enum("dataset", "digits", ["digits", "fashion_mnist"], "Dataset to train on.")
RUNNER = flags.DEFINE_enum(
    "runner",
    "local",
    ["local", "kubeflow", "vertex"],
    "'local' runs the pipeline on this machine; 'kubeflow' and 'vertex' write its specification for Kubeflow Pipelines "
    "or Vertex AI Pipelines.",
)
IMAGE = flags.DEFINE_string("image", None, "Container image with TFX and keras_distill, for 'kubeflow' and 'vertex'.")
ROOT = flags.DEFINE_string(
    "root", None, "Pipeline root in a cloud storage, for 'kubeflow' and 'vertex'; its folder 'examples' holds the data."
)
WORKDIR = flags.DEFINE_string("workdir", None, "Output directory. Defaults to runs/tfx_<dataset>.")
TEACHER_EPOCHS = flags.DEFINE_integer("teacher_epochs", None, "Epochs of the teacher.", lower_bound=1)
EPOCHS = flags.DEFINE_integer(
    "epochs", None, "Epochs of each student; a trial of the Tuner has a third of them.", lower_bound=1
)
TRIALS = flags.DEFINE_integer("trials", 4, "Trials of the Tuner.", lower_bound=1)
SMOKE = flags.DEFINE_bool("smoke", False, "Smoke test: one epoch, one trial, few examples.")

# Epochs of the teacher and of the students.
DEFAULT_EPOCHS = {"digits": (30, 30), "fashion_mnist": (8, 6)}
BATCH_SIZES = {"digits": 32, "fashion_mnist": 128}
# The pure Python runner. Without the second flag, Beam builds a source package of TFX for each node.
BEAM = ["--runner=FnApiRunner", "--sdk_container_image=unused"]


def make_nodes(name: str, source: str, destination: str) -> list[Any]:
    """Return the pipeline's nodes.

    Args:
        name: Name of the dataset.
        source: Directory of the input files.
        destination: Directory to push models to.
    """
    teacher_epochs, epochs = DEFAULT_EPOCHS[name]
    teacher_epochs, epochs = TEACHER_EPOCHS.value or teacher_epochs, EPOCHS.value or epochs
    destination = proto.PushDestination(filesystem=proto.PushDestination.Filesystem(base_directory=destination))
    examples, schema, data_nodes, graph = _data(name, source)

    def trainer(role, model, epochs, examples=examples, schema=schema, hyperparameters=None, terms=None):
        return components.Trainer(
            run_fn="keras_distill.pipelines.training.run_fn",
            examples=examples,
            schema=schema,
            hyperparameters=hyperparameters,
            custom_config=_settings(name, model, _unless_smoke(epochs), terms).as_config(),
            **graph,
        ).with_id(f"Trainer.{role}")

    teacher = trainer("teacher", "teacher", teacher_epochs)
    labeller = TeacherLabeller(examples=examples, model=teacher.outputs["model"], schema=schema, dtype="float16")
    labelled = {"examples": labeller.outputs["labelled_examples"], "schema": labeller.outputs["labelled_schema"]}
    tuner_settings = _settings(
        name, "student", _unless_smoke(epochs // 3), "terms", max_trials=_unless_smoke(TRIALS.value)
    )
    tuner = components.Tuner(
        tuner_fn="keras_distill.pipelines.training.tuner_fn",
        custom_config=tuner_settings.as_config(),
        **labelled,
        **graph,
    )
    best = tuner.outputs["best_hyperparameters"]
    student = trainer("student", "student", epochs, **labelled, hyperparameters=best, terms="terms")
    baseline = trainer("baseline", "student", epochs)
    report = DistillationReport(
        **labelled,
        model=student.outputs["model"],
        base_model=teacher.outputs["model"],
        baseline_model=baseline.outputs["model"],
        label="label",
        split="test",
        temperature=2.0,
        classes=list(data.FASHION if name == "fashion_mnist" else data.DIGITS),
    )
    return [
        *data_nodes,
        teacher,
        labeller,
        tuner,
        student,
        baseline,
        report,
        *_evaluation(examples, student.outputs["model"], teacher.outputs["model"], destination),
    ]


def _data(name, source):
    """Return the channels of the examples and the Schema, the data nodes, and additional inputs of the Trainers."""
    splits = [proto.Input.Split(name=split, pattern=f"{split}.*") for split in tfx_examples.SPLITS]
    generator = components.CsvExampleGen if name == "digits" else components.ImportExampleGen
    example_gen = generator(input_base=str(source), input_config=proto.Input(splits=splits))
    examples = example_gen.outputs["examples"]
    statistics_gen = components.StatisticsGen(examples=examples)
    statistics = statistics_gen.outputs["statistics"]
    schema_gen = components.SchemaGen(statistics=statistics)
    schema = schema_gen.outputs["schema"]
    validator = components.ExampleValidator(statistics=statistics, schema=schema)
    nodes = [example_gen, statistics_gen, schema_gen, validator]
    if name != "digits":
        return examples, schema, nodes, {}
    transform = components.Transform(
        examples=examples,
        schema=schema,
        preprocessing_fn=f"{MODELS}.preprocessing_fn",
        splits_config=proto.SplitsConfig(analyze=["train"]),
        materialize=False,
        # Transform does not read it. It makes TFX rerun the node when the function has changed.
        custom_config=_settings(name, "teacher", 1).as_config(),
    )
    return examples, schema, [*nodes, transform], {"transform_graph": transform.outputs["transform_graph"]}


def _evaluation(examples, student, teacher, destination):
    """Return the nodes after the student: two Evaluators, and the nodes that run if both bless it."""
    previous = tfx.dsl.Resolver(
        strategy_class=tfx.dsl.experimental.LatestBlessedModelStrategy,
        model=tfx.dsl.Channel(type=tfx.types.standard_artifacts.Model),
        model_blessing=tfx.dsl.Channel(type=tfx.types.standard_artifacts.ModelBlessing),
    ).with_id("Resolver.previous")
    against_previous = components.Evaluator(
        examples=examples,
        example_splits=["test"],
        model=student,
        baseline_model=previous.outputs["model"],
        eval_config=_eval_config(tfma.SlicingSpec(), min_accuracy=0.5, max_drop=0.01),
    ).with_id("Evaluator.previous")
    against_teacher = components.Evaluator(
        examples=examples,
        example_splits=["test"],
        model=student,
        baseline_model=teacher,
        # Also per class: the mean can hide a class on which the student fails.
        eval_config=_eval_config(tfma.SlicingSpec(), tfma.SlicingSpec(feature_keys=["label"]), max_drop=0.25),
    ).with_id("Evaluator.teacher")
    blessing = against_previous.outputs["blessing"]
    with tfx.dsl.Cond(against_teacher.outputs["blessing"].future().custom_property("blessed") == 1):
        inferrer = components.BulkInferrer(
            examples=examples,
            model=student,
            model_blessing=blessing,
            data_spec=proto.DataSpec(example_splits=["test"]),
        )
        pusher = components.Pusher(model=student, model_blessing=blessing, push_destination=destination)
    return [previous, against_previous, against_teacher, inferrer, pusher]


def _eval_config(*slices, max_drop, min_accuracy=0.0):
    """Return thresholds: accuracy at least `min_accuracy`, and at most `max_drop` below that of the other model."""
    if SMOKE.value:
        # After one epoch no student passes. Bless every student, so that the smoke test reaches the last nodes.
        min_accuracy, max_drop = 0.0, 1.0
    threshold = tfma.MetricThreshold(
        value_threshold=tfma.GenericValueThreshold(lower_bound={"value": min_accuracy}),
        change_threshold=tfma.GenericChangeThreshold(
            direction=tfma.MetricDirection.HIGHER_IS_BETTER, absolute={"value": -max_drop}
        ),
    )
    accuracy = tfma.MetricConfig(class_name="SparseCategoricalAccuracy", threshold=threshold)
    return tfma.EvalConfig(
        model_specs=[tfma.ModelSpec(signature_name="serving_default", label_key="label", prediction_key="output")],
        slicing_specs=list(slices),
        metrics_specs=[tfma.MetricsSpec(metrics=[accuracy])],
    )


def _settings(name, model, epochs, terms=None, max_trials=1):
    module = f"{MODELS}:"
    return Settings(
        model=f"{module}{name}_{model}",
        terms=f"{module}{terms}" if terms else None,
        preprocessing=f"{module}decode_images" if name == "fashion_mnist" else None,
        compile=f"{module}compile_model",
        label="label",
        epochs=epochs,
        batch_size=BATCH_SIZES[name],
        max_trials=max_trials,
        taps=("output", "block_0"),
    )


def _unless_smoke(number):
    """Return the number, at least 1; return 1 in a smoke test."""
    return 1 if SMOKE.value else max(number, 1)


def _run(name, folder):
    """Run the pipeline on this machine, and print the state of each node and the metrics."""
    tfx_examples.write(name, folder / "examples", 200 if SMOKE.value else None)
    connection = tfx.orchestration.metadata.sqlite_metadata_connection_config(str(folder / "metadata.sqlite"))
    tfx.orchestration.LocalDagRunner().run(
        tfx.dsl.Pipeline(
            pipeline_name=f"distill_{name}",
            pipeline_root=str(folder / "artifacts"),
            components=make_nodes(name, str(folder / "examples"), str(folder / "pushed")),
            enable_cache=True,
            metadata_connection_config=connection,
            beam_pipeline_args=BEAM,
        )
    )
    store = metadata_store.MetadataStore(connection)
    run = max(store.get_contexts_by_type("pipeline_run"), key=lambda context: context.id)
    for execution in sorted(store.get_executions_by_context(run.id), key=lambda execution: execution.id):
        (node,) = (c.name for c in store.get_contexts_by_execution(execution.id) if c.type == "node")
        state = metadata_store_pb2.Execution.State.Name(execution.last_known_state)
        print(f"{node.removeprefix(f'distill_{name}.'):20}  {state.lower()}")
    evaluations = store.get_artifacts_by_type("ModelEvaluation")
    reports = [artifact for artifact in evaluations if "/DistillationReport/" in artifact.uri]
    report = max(reports, key=lambda artifact: artifact.id)
    for metric, value in json.loads(pathlib.Path(report.uri, "metrics.json").read_text()).items():
        print(f"{metric:32}  {value:.4f}")
    print(f"Report: {report.uri}/report.html. Pushed models: {folder / 'pushed'}")


def _write_specification(name, folder, runner):
    """Write the pipeline's specification for a cloud, and read it back."""
    if IMAGE.value is None or ROOT.value is None:
        raise app.UsageError(f"--runner={runner} requires --image and --root.")
    path = folder / ("pipeline.yaml" if runner == "kubeflow" else "pipeline.json")
    folder.mkdir(parents=True, exist_ok=True)
    config = tfx.orchestration.experimental.KubeflowV2DagRunnerConfig(default_image=IMAGE.value)
    tfx.orchestration.experimental.KubeflowV2DagRunner(config=config, output_filename=str(path)).run(
        tfx.dsl.Pipeline(
            pipeline_name=f"distill-{name}".replace("_", "-"),
            pipeline_root=ROOT.value,
            components=make_nodes(name, f"{ROOT.value}/examples", f"{ROOT.value}/pushed"),
            enable_cache=True,
            beam_pipeline_args=BEAM,
        )
    )
    specification = yaml.safe_load(path.read_text())
    tasks = specification.get("pipelineSpec", specification)["root"]["dag"]["tasks"]
    print(f"Wrote a specification with {len(tasks)} tasks to {path}. Submit it to run it.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}. Run with --help to list the flags.")
    folder = pathlib.Path(WORKDIR.value or f"runs/tfx_{DATASET.value}").absolute()
    # TFX logs every step of every node at level INFO.
    logging.set_verbosity(logging.WARNING)
    runner = RUNNER.value
    # TFX passes absl's flags to Beam, which has a flag `--runner` with other values.
    delattr(flags.FLAGS, "runner")
    if runner == "local":
        _run(DATASET.value, folder)
    else:
        _write_specification(DATASET.value, folder, runner)


if __name__ == "__main__":
    app.run(main)
