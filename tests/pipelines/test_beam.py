"""LabelWithTeacher with several workers and worker failures, on Beam's FnApiRunner and on a Dask cluster."""

import pathlib
import re

import apache_beam as beam
import keras
import numpy as np
import pytest
import tensorflow as tf
from apache_beam.options.pipeline_options import PipelineOptions

from keras_distill.cache import indexed, label, open_cache, shards
from keras_distill.data.batch import split_inputs
from keras_distill.pipelines.beam import LabelWithTeacher, _TeacherRunner
from tests.support.cluster import finish, start
from tests.support.helpers import data, mlp
from tests.support.labelling_run import SETTINGS, examples

pytestmark = [pytest.mark.tfx, pytest.mark.processes]

ROOT = pathlib.Path(__file__).parent.parent.parent
# Options to run in this process.
OPTIONS = PipelineOptions(["--runner=FnApiRunner", "--sdk_container_image=unused"])


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Return a folder with a teacher, and the cache that `label` wrote."""
    folder = tmp_path_factory.mktemp("whole")
    teacher = mlp(16, name="teacher")
    teacher.save(folder / "teacher.keras")
    label(teacher, examples(), folder / "cache", verbose=0, **SETTINGS)
    return folder


@pytest.fixture
def folder(reference, tmp_path):
    """Return a folder with the same teacher."""
    (tmp_path / "teacher.keras").symlink_to(reference / "teacher.keras")
    return tmp_path


def file_contents(directory):
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
    [(code, output)] = finish(start(["-m", "tests.support.labelling_run", runner, folder, *failure]), deadline=200)
    return code, output


@pytest.mark.parametrize("runner", ["processes", "dask"])
def test_several_workers_write_the_same_files_as_label(runner, reference, folder):
    code, output = run(runner, folder)
    assert code == 0, output[-3000:]
    assert file_contents(folder / "cache") == file_contents(reference / "cache")


@pytest.mark.parametrize("failure", ["run", "write"])
def test_dask_recovers_from_the_death_of_a_worker(failure, reference, folder):
    code, output = run("dask", folder, failure)
    assert (folder / "died").exists()
    assert code == 0, output[-3000:]
    assert file_contents(folder / "cache") == file_contents(reference / "cache")


@pytest.mark.parametrize("failure", ["run", "write"])
def test_rerun_resumes_after_the_death_of_a_worker(failure, reference, folder):
    (process,) = start(["-m", "tests.support.labelling_run", "processes", folder, failure])
    while not (folder / "died").exists():
        assert process.poll() is None, process.communicate()[0]
    # FnApiRunner waits for the dead worker forever.
    process.kill()
    process.communicate()
    assert not shards.read_manifest(folder / "cache").complete
    code, output = run("processes", folder, failure)
    assert code == 0, output[-3000:]
    assert file_contents(folder / "cache") == file_contents(reference / "cache")


def test_cache_joins_a_shuffled_dataset(reference, folder):
    x, y = data(200)
    label_examples(folder, range(200))
    joined = {}
    for parent in (reference, folder):
        cache = open_cache(parent / "cache")
        cache.verify()
        dataset = cache.join(indexed((x, y)).shuffle(50, seed=0).batch(20))
        joined[parent] = [np.array(leaf) for element in dataset for leaf in keras.tree.flatten(element)]
    for expected, actual in zip(joined[reference], joined[folder], strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_duplicate_examples_are_stored_once(reference, folder):
    label_examples(folder, [*range(200), *range(0, 200, 7)])
    assert file_contents(folder / "cache") == file_contents(reference / "cache")


def test_teacher_runs_on_unfinished_shards_only(reference, folder, monkeypatch):
    length = shards.read_manifest(reference / "cache").shard_examples
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
    monkeypatch.setattr(
        _TeacherRunner, "outputs", lambda self, x, i: (batch_sizes.append(len(x)), outputs(self, x, i))[1]
    )
    label_examples(folder, range(200))
    assert sum(batch_sizes) == 200 - num_written * length
    assert file_contents(folder / "cache") == file_contents(reference / "cache")


def test_examples_of_different_lengths_raise(folder):
    tokens = keras.Input((None,), dtype="int32")
    keras.Model(tokens, keras.layers.Embedding(5, 3)(tokens)).save(folder / "texts.keras")
    transform = LabelWithTeacher(folder / "texts.keras", folder / "texts", inputs=tf.TensorSpec((None,), tf.int32))
    with pytest.raises(ValueError, match=r"activations of fixed shape. Pad the examples.*\(None, 3\)"):
        transform.expand(None)


@pytest.mark.parametrize("missing", [0, 13, 150, 198])
def test_missing_example_raises(missing, folder):
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


def test_complete_cache_is_not_changed(reference, folder):
    label_examples(folder, range(200))
    before = file_contents(folder / "cache")
    label_examples(folder, range(200))
    # Batch sizes that do not divide a shard, and that exceed one.
    label_examples(folder, range(200), batch_size=7)
    label_examples(folder, range(200), batch_size=150)
    assert file_contents(folder / "cache") == before
    x = examples()
    x[42] += 1
    with pytest.raises(Exception, match="Example 42 does not match its fingerprint"):
        label_examples(folder, range(200), x)
    with pytest.raises(Exception, match="Example 200 does not match its fingerprint"):
        label_examples(folder, range(205), data(205)[0])
    with pytest.raises(ValueError, match="holds a cache with other settings: version None instead of 'other'"):
        label_examples(folder, range(200), version="other")
    assert file_contents(folder / "cache") == before


def test_the_guide_s_example_runs_as_printed(reference, folder):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "howto" / "beam.md").read_text(), re.DOTALL)
    (example,) = (block for block in blocks if "LabelWithTeacher" in block)
    assert len(example.splitlines()) <= 20
    (folder / "example.py").write_text(example)
    np.save(folder / "x_train.npy", examples())
    [(code, output)] = finish(start(["example.py"], folder=folder), deadline=200)
    assert code == 0, output[-3000:]
    (_, expected), (_, actual) = (
        split_inputs(open_cache(parent / "cache").load(examples()))[:2] for parent in (reference, folder)
    )
    np.testing.assert_allclose(actual["output"], expected["output"], rtol=1e-6)
