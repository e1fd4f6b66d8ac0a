"""LabelWithTeacher with several workers, some of which die, on Beam's FnApiRunner and on a Dask cluster."""

import pathlib
import re

import apache_beam as beam
import keras
import numpy as np
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from keras_distill.cache import indexed, label, open_cache, shards
from keras_distill.data.batch import split_inputs
from keras_distill.pipelines.beam import LabelWithTeacher, _TeacherRunner
from tests.support.cluster import finish, start
from tests.support.helpers import data, mlp
from tests.support.labelling_run import SETTINGS, examples

pytestmark = [pytest.mark.tfx, pytest.mark.processes]

ROOT = pathlib.Path(__file__).parent.parent.parent
# Run in this process.
OPTIONS = PipelineOptions(["--runner=FnApiRunner", "--sdk_container_image=unused"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with a teacher, and the cache that `label` wrote."""
    folder = tmp_path_factory.mktemp("whole")
    teacher = mlp(16, name="teacher")
    teacher.save(folder / "teacher.keras")
    label(teacher, examples(), folder / "cache", verbose=0, **SETTINGS)
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    """A folder with the same teacher."""
    (tmp_path / "teacher.keras").symlink_to(whole / "teacher.keras")
    return tmp_path


def content(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.suffix in (".npy", ".json")}


def label_examples(folder, indices, x=None, **options):
    """Label examples in this process."""
    x = examples() if x is None else x
    label_pairs(folder, [(index, x[index]) for index in indices], **options)


def label_pairs(folder, pairs, **options):
    with beam.Pipeline(options=OPTIONS) as pipeline:
        settings = {**SETTINGS, **options}
        transform = LabelWithTeacher(folder / "teacher.keras", folder / "cache", examples()[0], **settings)
        _ = pipeline | beam.Create(pairs) | transform


def run(runner, folder, *failure):
    [(code, printed)] = finish(start(["-m", "tests.support.labelling_run", runner, folder, *failure]), deadline=200)
    return code, printed


@pytest.mark.parametrize("runner", ["processes", "dask"])
def test_several_workers_write_what_label_writes(runner, whole, folder):
    code, printed = run(runner, folder)
    assert code == 0, printed[-3000:]
    assert content(folder / "cache") == content(whole / "cache")


@pytest.mark.parametrize("failure", ["run", "write"])
def test_dask_recovers_from_the_death_of_a_worker(failure, whole, folder):
    code, printed = run("dask", folder, failure)
    assert (folder / "died").exists()
    assert code == 0, printed[-3000:]
    assert content(folder / "cache") == content(whole / "cache")


@pytest.mark.parametrize("failure", ["run", "write"])
def test_a_rerun_resumes_after_the_death_of_a_worker(failure, whole, folder):
    (process,) = start(["-m", "tests.support.labelling_run", "processes", folder, failure])
    while not (folder / "died").exists():
        assert process.poll() is None, process.communicate()[0]
    # FnApiRunner waits for the dead worker forever.
    process.kill()
    process.communicate()
    assert not shards.read_manifest(folder / "cache").complete
    code, printed = run("processes", folder, failure)
    assert code == 0, printed[-3000:]
    assert content(folder / "cache") == content(whole / "cache")


def test_the_cache_joins(whole, folder):
    x, y = data(200)
    label_examples(folder, range(200))
    joined = {}
    for parent in (whole, folder):
        cache = open_cache(parent / "cache")
        cache.verify()
        dataset = cache.join(indexed((x, y)).shuffle(50, seed=0).batch(20))
        joined[parent] = [np.array(leaf) for element in dataset for leaf in keras.tree.flatten(element)]
    for expected, actual in zip(joined[whole], joined[folder], strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_duplicate_examples_are_stored_once(whole, folder):
    label_examples(folder, [*range(200), *range(0, 200, 7)])
    assert content(folder / "cache") == content(whole / "cache")


def test_the_teacher_runs_on_unfinished_shards_only(whole, folder, monkeypatch):
    length = shards.read_manifest(whole / "cache").shard_examples
    write, batch_sizes, outputs = shards.write_shard, [], _TeacherRunner.outputs

    def disk_full(directory, number, *arguments, **options):
        if number == 3:
            raise OSError(28, "No space left on device")
        return write(directory, number, *arguments, **options)

    monkeypatch.setattr(shards, "write_shard", disk_full)
    with pytest.raises(Exception, match="No space left"):
        label_examples(folder, range(200))
    num_written = len(list((folder / "cache").glob("[0-9]*.json")))
    assert num_written
    monkeypatch.setattr(shards, "write_shard", write)
    monkeypatch.setattr(_TeacherRunner, "outputs", lambda self, x: (batch_sizes.append(len(x)), outputs(self, x))[1])
    label_examples(folder, range(200))
    assert sum(batch_sizes) == 200 - num_written * length
    assert content(folder / "cache") == content(whole / "cache")


@pytest.mark.parametrize("missing", [0, 13, 150, 198])
def test_a_missing_example_raises(missing, folder):
    with pytest.raises(Exception, match=f"Example {missing} is missing, but later ones exist"):
        label_examples(folder, [index for index in range(200) if index != missing])
    assert not shards.read_manifest(folder / "cache").complete


def test_invalid_examples_raise(folder):
    x = examples()
    with pytest.raises(Exception, match="The dataset has no examples"):
        label_examples(folder, [])
    with pytest.raises(Exception, match="must be >= 0.*Received: -1"):
        label_examples(folder, [-1, 0, 1])
    with pytest.raises(Exception, match="Two different examples have the index 3"):
        label_pairs(folder, [*enumerate(x[:5]), (3, x[7])])


def test_a_complete_cache_stays_unchanged(whole, folder):
    label_examples(folder, range(200))
    before = content(folder / "cache")
    label_examples(folder, range(200))
    # Batch sizes that do not divide a shard, and that exceed one.
    label_examples(folder, range(200), batch_size=7)
    label_examples(folder, range(200), batch_size=150)
    assert content(folder / "cache") == before
    x = examples()
    x[42] += 1
    with pytest.raises(Exception, match="Example 42 does not match its fingerprint"):
        label_examples(folder, range(200), x)
    with pytest.raises(Exception, match="Example 200 does not match its fingerprint"):
        label_examples(folder, range(205), data(205)[0])
    with pytest.raises(ValueError, match="holds a cache with other settings: version None instead of 'other'"):
        label_examples(folder, range(200), version="other")
    assert content(folder / "cache") == before


def test_the_example_in_readme_runs_as_printed(whole, folder):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (example,) = (block for block in blocks if "LabelWithTeacher" in block)
    assert len(example.splitlines()) <= 20
    (folder / "example.py").write_text(example)
    np.save(folder / "x_train.npy", examples())
    [(code, printed)] = finish(start(["example.py"], folder=folder), deadline=200)
    assert code == 0, printed[-3000:]
    (_, expected), (_, actual) = (
        split_inputs(open_cache(parent / "cache").load(examples()))[:2] for parent in (whole, folder)
    )
    np.testing.assert_allclose(actual["output"], expected["output"], rtol=1e-6)
