"""Pipeline of TFX nodes that trains, labels, tunes, evaluates, reports and pushes."""

import tensorflow_model_analysis as tfma
from tfx.v1 import components, proto

from keras_distill.pipelines.labelling import TeacherLabeller
from keras_distill.pipelines.reporting import DistillationReport
from keras_distill.pipelines.settings import Settings
from tests.support.helpers import features

RUN_FN = "keras_distill.pipelines.training.run_fn"
TUNER_FN = "keras_distill.pipelines.training.tuner_fn"


def separable(examples, seed):
    """Return inputs, and as their labels the index of the largest of their first three features."""
    x = features(examples, 8, seed=seed)
    return x, x[:, :3].argmax(-1)


DATA = {"train": separable(400, 1), "eval": separable(100, 2)}


def settings(model, **values):
    values = {"label": "label", "preprocessing": "tests.support.tfx_project:halve", "batch_size": 50} | values
    return Settings(f"tests.support.tfx_project:{model}", **values).as_config()


def make_nodes(folder, student_epochs=3):
    source = folder / "examples"
    example_gen = components.ImportExampleGen(
        input_base=str(source),
        input_config=proto.Input(
            splits=[proto.Input.Split(name=name, pattern=f"Split-{name}/*") for name in DATA],
        ),
    )
    examples = example_gen.outputs["examples"]
    statistics = components.StatisticsGen(examples=examples)
    schema_gen = components.SchemaGen(statistics=statistics.outputs["statistics"])
    schema = schema_gen.outputs["schema"]

    def trainer(role, examples=examples, schema=schema, config=None, **inputs):
        return components.Trainer(
            run_fn=RUN_FN, examples=examples, schema=schema, custom_config=config, **inputs
        ).with_id(f"Trainer.{role}")

    def labeller(role, previous=None, **options):
        previous = previous or {"labelled_examples": examples, "labelled_schema": schema}
        return TeacherLabeller(
            examples=previous["labelled_examples"],
            schema=previous["labelled_schema"],
            model=teacher.outputs["model"],
            **options,
        ).with_id(f"TeacherLabeller.{role}")

    teacher = trainer("teacher", config=settings("teacher", epochs=8, taps=("output", "features")))
    plain = labeller("plain")
    half = labeller("half", plain.outputs, teacher="half", dtype="float16", taps=["output"])
    top = labeller("top", half.outputs, teacher="top", top_k=1, taps=["output"], dtype="bfloat16")
    labeled = {"examples": plain.outputs["labelled_examples"], "schema": plain.outputs["labelled_schema"]}
    all_labeled = {"examples": top.outputs["labelled_examples"], "schema": top.outputs["labelled_schema"]}
    tuner = components.Tuner(
        tuner_fn=TUNER_FN,
        custom_config=settings("student", terms="tests.support.tfx_project:terms", max_trials=2),
        **labeled,
    )
    student = trainer(
        "student",
        **labeled,
        hyperparameters=tuner.outputs["best_hyperparameters"],
        config=settings("student", terms="tests.support.tfx_project:terms", epochs=student_epochs),
    )
    sgd = {"terms": "tests.support.tfx_project:output_term", "compile": "tests.support.tfx_project:compile_with_sgd"}
    offline = trainer("offline", **labeled, config=settings("student", **sgd))
    online = trainer("online", base_model=teacher.outputs["model"], config=settings("student", **sgd))
    several = trainer(
        "several", **all_labeled, config=settings("student", terms="tests.support.tfx_project:several_teachers")
    )
    baseline = trainer("baseline", config=settings("student", epochs=student_epochs))
    report = DistillationReport(
        **labeled,
        model=student.outputs["model"],
        base_model=teacher.outputs["model"],
        baseline_model=baseline.outputs["model"],
        label="label",
        temperature=2.0,
        classes=["a", "b", "c"],
    )
    evaluator = components.Evaluator(
        examples=examples,
        model=student.outputs["model"],
        baseline_model=teacher.outputs["model"],
        eval_config=tfma.EvalConfig(
            model_specs=[tfma.ModelSpec(signature_name="serving_default", label_key="label", prediction_key="output")],
            slicing_specs=[tfma.SlicingSpec()],
            metrics_specs=[
                tfma.MetricsSpec(
                    metrics=[
                        tfma.MetricConfig(
                            class_name="SparseCategoricalAccuracy",
                            threshold=tfma.MetricThreshold(
                                value_threshold=tfma.GenericValueThreshold(lower_bound={"value": 0.0})
                            ),
                        )
                    ]
                )
            ],
        ),
    )
    blessed = {"model": student.outputs["model"], "model_blessing": evaluator.outputs["blessing"]}
    inferrer = components.BulkInferrer(examples=examples, **blessed, data_spec=proto.DataSpec(example_splits=["eval"]))
    pusher = components.Pusher(
        **blessed,
        push_destination=proto.PushDestination(
            filesystem=proto.PushDestination.Filesystem(base_directory=str(folder / "pushed"))
        ),
    )
    first = [example_gen, statistics, schema_gen, teacher, plain, half, top]
    return [*first, tuner, student, offline, online, several, baseline, report, evaluator, inferrer, pusher]
