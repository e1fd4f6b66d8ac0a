"""A whole TFX pipeline: a teacher is trained and labels the examples, a student is tuned, distilled, judged and pushed.

    ExampleGen, StatisticsGen, SchemaGen, ExampleValidator      the data; digits also go through Transform
    Trainer.teacher, TeacherLabeller                            what the teacher says, beside the examples
    Tuner, Trainer.student, Trainer.alone                       the student, and the same one by labels alone
    DistillationReport                                          agreement, divergence, accuracy: report.html
    Evaluator.previous                                          blessed if no worse than the student pushed before
    Evaluator.teacher                                           blessed if not far behind the teacher, in any class
    BulkInferrer, Pusher                                        only with both blessings

Started again, it does only what has changed. It needs the environment that `.ci/environment VENV` makes.

Run:    python -m recipes.tfx_pipeline
        python -m recipes.tfx_pipeline --dataset=fashion_mnist --originals=FOLDER
        python -m recipes.tfx_pipeline --runner=kubeflow --image=IMAGE --root=gs://BUCKET/FOLDER    writes what is run
Expect: accuracy on the test examples, agreement with the teacher and divergence from it at T = 2; one seed, nothing
        tuned but what the Tuner tries:
        digits: teacher 98.4 %; student alone 97.4 %, 98.0 %, 0.188 nats; distilled 97.2 %, 98.0 %, 0.059 nats
        Fashion-MNIST: teacher 88.7 %; alone 78.1 %, 79.8 %, 0.231 nats; distilled 78.4 %, 81.7 %, 0.155 nats
        So students with all labels come nearer to their teacher, and are no better by more than chance.
Time:   3 minutes for digits, 8 for Fashion-MNIST, on 2 cores of an AMD EPYC shared with other work;
        started again, half a minute
"""

import json
import pathlib

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
from recipes import data, tfx_examples

DATASET = flags.DEFINE_enum("dataset", "digits", ["digits", "fashion_mnist"], "What is told apart.")
RUNNER = flags.DEFINE_enum(
    "runner",
    "local",
    ["local", "kubeflow", "vertex"],
    "Runs the pipeline here; or writes what Kubeflow Pipelines or Vertex AI Pipelines run.",
)
IMAGE = flags.DEFINE_string("image", None, "Of a container with TFX and keras_distill, for these.")
ROOT = flags.DEFINE_string("root", None, "Folder in a cloud storage for these, with the examples' files in 'examples'.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder for all that is made. Defaults to runs/tfx_<dataset>.")
TEACHER_EPOCHS = flags.DEFINE_integer("teacher_epochs", None, "Epochs of the teacher.", lower_bound=1)
EPOCHS = flags.DEFINE_integer(
    "epochs", None, "Epochs of each student; trials of the Tuner have a third.", lower_bound=1
)
TRIALS = flags.DEFINE_integer("trials", 4, "Trials of the Tuner.", lower_bound=1)
SMOKE = flags.DEFINE_bool("smoke", False, "One epoch, one trial, few examples: whether it runs, not what it yields.")

# Of the teacher, and of students.
EPOCHS_OF = {"digits": (30, 30), "fashion_mnist": (8, 6)}
BATCH_SIZES = {"digits": 32, "fashion_mnist": 128}
# Beam's runner of Python alone; without the second flag it builds TFX anew for each node.
BEAM = ["--runner=FnApiRunner", "--sdk_container_image=unused"]


def nodes(name, source, destination):
    """The pipeline's nodes.

    Args:
        name: Of the data set.
        source: Folder of the examples' files.
        destination: Where models are pushed to.
    """
    teacher_epochs, epochs = EPOCHS_OF[name]
    teacher_epochs, epochs = TEACHER_EPOCHS.value or teacher_epochs, EPOCHS.value or epochs
    destination = proto.PushDestination(filesystem=proto.PushDestination.Filesystem(base_directory=destination))
    examples, schema, data_nodes, graph = _data(name, source)

    def trainer(role, student, epochs, examples=examples, schema=schema, hyperparameters=None, terms=None):
        return components.Trainer(
            run_fn="keras_distill.pipelines.training.run_fn",
            examples=examples,
            schema=schema,
            hyperparameters=hyperparameters,
            custom_config=_settings(name, student, _few(epochs), terms).as_config(),
            **graph,
        ).with_id(f"Trainer.{role}")

    teacher = trainer("teacher", "teacher", teacher_epochs)
    labeller = TeacherLabeller(examples=examples, model=teacher.outputs["model"], schema=schema, dtype="float16")
    labelled = {"examples": labeller.outputs["labelled_examples"], "schema": labeller.outputs["labelled_schema"]}
    tuner = components.Tuner(
        tuner_fn="keras_distill.pipelines.training.tuner_fn",
        custom_config=_settings(name, "student", _few(epochs // 3), "terms", trials=_few(TRIALS.value)).as_config(),
        **labelled,
        **graph,
    )
    best = tuner.outputs["best_hyperparameters"]
    student = trainer("student", "student", epochs, **labelled, hyperparameters=best, terms="terms")
    alone = trainer("alone", "student", epochs)
    report = DistillationReport(
        **labelled,
        model=student.outputs["model"],
        base_model=teacher.outputs["model"],
        baseline_model=alone.outputs["model"],
        label="label",
        split="test",
        temperature=2.0,
        classes=list(data.FASHION if name == "fashion_mnist" else data.DIGITS),
    )
    model = student.outputs["model"]
    return [
        *data_nodes,
        teacher,
        labeller,
        tuner,
        student,
        alone,
        report,
        *_judgement(examples, model, teacher.outputs["model"], destination),
    ]


def _data(name, source):
    """Channels of examples and Schema, the nodes that they come from, and the Trainers' inputs that the data need."""
    splits = [proto.Input.Split(name=split, pattern=f"{split}.*") for split in tfx_examples.SPLITS]
    generator = components.CsvExampleGen if name == "digits" else components.ImportExampleGen
    example_gen = generator(input_base=str(source), input_config=proto.Input(splits=splits))
    examples = example_gen.outputs["examples"]
    statistics_gen = components.StatisticsGen(examples=examples)
    statistics = statistics_gen.outputs["statistics"]
    schema_gen = components.SchemaGen(statistics=statistics)
    schema = schema_gen.outputs["schema"]
    validator = components.ExampleValidator(statistics=statistics, schema=schema)
    found = [example_gen, statistics_gen, schema_gen, validator]
    if name != "digits":
        return examples, schema, found, {}
    transform = components.Transform(
        examples=examples,
        schema=schema,
        preprocessing_fn="recipes.tfx_models.preprocessing_fn",
        splits_config=proto.SplitsConfig(analyze=["train"]),
        materialize=False,
        # Not read; it tells TFX when the function has changed.
        custom_config=_settings(name, "teacher", 1).as_config(),
    )
    return examples, schema, [*found, transform], {"transform_graph": transform.outputs["transform_graph"]}


def _judgement(examples, student, teacher, destination):
    """The nodes behind the student: two judges, and what is done with what both of them bless."""
    previous = tfx.dsl.Resolver(
        strategy_class=tfx.dsl.experimental.LatestBlessedModelStrategy,
        model=tfx.dsl.Channel(type=tfx.types.standard_artifacts.Model),
        model_blessing=tfx.dsl.Channel(type=tfx.types.standard_artifacts.ModelBlessing),
    ).with_id("Resolver.previous")
    beside_previous = components.Evaluator(
        examples=examples,
        example_splits=["test"],
        model=student,
        baseline_model=previous.outputs["model"],
        eval_config=_eval_config(tfma.SlicingSpec(), lowest=0.5, most_behind=0.01),
    ).with_id("Evaluator.previous")
    beside_teacher = components.Evaluator(
        examples=examples,
        example_splits=["test"],
        model=student,
        baseline_model=teacher,
        # In each class, too: a mean may hide one that the student gave up.
        eval_config=_eval_config(tfma.SlicingSpec(), tfma.SlicingSpec(feature_keys=["label"]), most_behind=0.25),
    ).with_id("Evaluator.teacher")
    blessing = beside_previous.outputs["blessing"]
    with tfx.dsl.Cond(beside_teacher.outputs["blessing"].future().custom_property("blessed") == 1):
        inferrer = components.BulkInferrer(
            examples=examples,
            model=student,
            model_blessing=blessing,
            data_spec=proto.DataSpec(example_splits=["test"]),
        )
        pusher = components.Pusher(model=student, model_blessing=blessing, push_destination=destination)
    return [previous, beside_previous, beside_teacher, inferrer, pusher]


def _eval_config(*slices, most_behind, lowest=0.0):
    """Blesses a model whose accuracy is at least `lowest`, and at most `most_behind` under that of the other model."""
    if SMOKE.value:
        # One epoch yields nothing to be judged; what follows the judges shall run all the same.
        lowest, most_behind = 0.0, 1.0
    threshold = tfma.MetricThreshold(
        value_threshold=tfma.GenericValueThreshold(lower_bound={"value": lowest}),
        change_threshold=tfma.GenericChangeThreshold(
            direction=tfma.MetricDirection.HIGHER_IS_BETTER, absolute={"value": -most_behind}
        ),
    )
    accuracy = tfma.MetricConfig(class_name="SparseCategoricalAccuracy", threshold=threshold)
    return tfma.EvalConfig(
        model_specs=[tfma.ModelSpec(signature_name="serving_default", label_key="label", prediction_key="output")],
        slicing_specs=list(slices),
        metrics_specs=[tfma.MetricsSpec(metrics=[accuracy])],
    )


def _settings(name, student, epochs, terms=None, trials=1):
    models = "recipes.tfx_models:"
    return Settings(
        student=f"{models}{name}_{student}",
        terms=f"{models}{terms}" if terms else None,
        preprocessing=f"{models}pictures" if name == "fashion_mnist" else None,
        compile=f"{models}compiled",
        label="label",
        epochs=epochs,
        batch_size=BATCH_SIZES[name],
        trials=trials,
        taps=("output", "block_0"),
    )


def _few(number):
    return 1 if SMOKE.value else max(number, 1)


def _run(name, folder):
    """Runs the pipeline here, and says what it did."""
    tfx_examples.write(name, folder / "examples", 200 if SMOKE.value else None)
    connection = tfx.orchestration.metadata.sqlite_metadata_connection_config(str(folder / "metadata.sqlite"))
    tfx.orchestration.LocalDagRunner().run(
        tfx.dsl.Pipeline(
            pipeline_name=f"distil_{name}",
            pipeline_root=str(folder / "artifacts"),
            components=nodes(name, str(folder / "examples"), str(folder / "pushed")),
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
        print(f"{node.removeprefix(f'distil_{name}.'):20}  {state.lower()}")
    evaluations = store.get_artifacts_by_type("ModelEvaluation")
    report = max((each for each in evaluations if "/DistillationReport/" in each.uri), key=lambda each: each.id)
    for metric, value in json.loads(pathlib.Path(report.uri, "metrics.json").read_text()).items():
        print(f"{metric:32}  {value:.4f}")
    print(f"Report: {report.uri}/report.html. Pushed models: {folder / 'pushed'}")


def _specify(name, folder, runner):
    """Writes the pipeline for a cloud that runs it, and reads it back."""
    if IMAGE.value is None or ROOT.value is None:
        raise app.UsageError(f"--runner={runner} needs --image and --root.")
    path = folder / ("pipeline.yaml" if runner == "kubeflow" else "pipeline.json")
    folder.mkdir(parents=True, exist_ok=True)
    config = tfx.orchestration.experimental.KubeflowV2DagRunnerConfig(default_image=IMAGE.value)
    tfx.orchestration.experimental.KubeflowV2DagRunner(config=config, output_filename=str(path)).run(
        tfx.dsl.Pipeline(
            pipeline_name=f"distil-{name}".replace("_", "-"),
            pipeline_root=ROOT.value,
            components=nodes(name, f"{ROOT.value}/examples", f"{ROOT.value}/pushed"),
            enable_cache=True,
            beam_pipeline_args=BEAM,
        )
    )
    written = yaml.safe_load(path.read_text())
    tasks = written.get("pipelineSpec", written)["root"]["dag"]["tasks"]
    print(f"Written to {path}: {len(tasks)} tasks. It was not run.")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Not a flag: {argv[1:]}. Try --help.")
    folder = pathlib.Path(WORKDIR.value or f"runs/tfx_{DATASET.value}").absolute()
    # TFX tells of every step of every node.
    logging.set_verbosity(logging.WARNING)
    runner = RUNNER.value
    # TFX reads Beam's arguments as flags of absl, and Beam has a `--runner`, too.
    delattr(flags.FLAGS, "runner")
    if runner == "local":
        _run(DATASET.value, folder)
    else:
        _specify(DATASET.value, folder, runner)


if __name__ == "__main__":
    app.run(main)
