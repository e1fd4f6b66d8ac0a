"""Run the pipeline of the guide to TFX as printed."""

import json
import pathlib
import re

import pytest
from tfx.v1 import components, proto

from tests.support.helpers import data
from tests.support.tfx_running import Pipeline, write_examples

pytestmark = pytest.mark.tfx

GUIDE = (pathlib.Path(__file__).parents[2] / "docs" / "howto" / "tfx.md").read_text()


def test_pipeline_runs_as_printed(tmp_path):
    example, *_ = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    assert len(example.strip().splitlines()) <= 20
    write_examples(tmp_path / "examples", {"train": data(60), "eval": data(20)})
    splits = [proto.Input.Split(name=name, pattern=f"Split-{name}/*") for name in ("train", "eval")]
    example_gen = components.ImportExampleGen(str(tmp_path / "examples"), proto.Input(splits=splits))
    statistics_gen = components.StatisticsGen(examples=example_gen.outputs["examples"])
    schema_gen = components.SchemaGen(statistics=statistics_gen.outputs["statistics"])
    names = {"example_gen": example_gen, "schema_gen": schema_gen}
    exec(
        example.replace("my_project.models:", "tests.support.tfx_project:").replace(
            "tests.support.tfx_project:terms", "tests.support.tfx_project:kl_term"
        ),
        names,
    )  # noqa: S102
    pipeline = Pipeline(tmp_path)
    assert set(pipeline.run([example_gen, statistics_gen, schema_gen, *names["nodes"]]).values()) == {"complete"}
    metrics = json.loads(pathlib.Path(pipeline.uri("DistillationReport", "report"), "metrics.json").read_text())
    metrics_of_student = {f"distilled, {metric}" for metric in ("accuracy", "agreement", "divergence")}
    assert set(metrics) == {"teacher, accuracy", *metrics_of_student}
