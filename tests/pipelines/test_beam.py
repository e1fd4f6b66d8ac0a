"""Labelling by many workers, on Beam's own runner and on a cluster of Dask; some of them die."""

import pathlib
import re

import apache_beam as beam
import keras
import numpy as np
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from keras_distill.cache import indexed, label, open_cache, shards
from keras_distill.data.batch import split_inputs
from keras_distill.pipelines.beam import LabelWithTeacher, _Speaking
from tests.support.cluster import finish, start
from tests.support.helpers import data, mlp
from tests.support.labelling_run import SETTINGS, examples

pytestmark = pytest.mark.tfx

ROOT = pathlib.Path(__file__).parent.parent.parent
# In this process.
OPTIONS = PipelineOptions(["--runner=FnApiRunner", "--sdk_container_image=unused"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with a teacher, and what `label` wrote of it into "cache"."""
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


def labelled(folder, numbers, x=None, **options):
    """Labels examples in this process."""
    x = examples() if x is None else x
    label_pairs(folder, [(number, x[number]) for number in numbers], **options)


def label_pairs(folder, pairs, **options):
    with beam.Pipeline(options=OPTIONS) as pipeline:
        settings = {**SETTINGS, **options}
        transform = LabelWithTeacher(folder / "teacher.keras", folder / "cache", examples()[0], **settings)
        _ = pipeline | beam.Create(pairs) | transform


def run(runner, folder, *doom):
    [(code, printed)] = finish(start(["-m", "tests.support.labelling_run", runner, folder, *doom]), deadline=200)
    return code, printed


@pytest.mark.parametrize("runner", ["processes", "dask"])
def test_several_workers_write_what_label_writes(runner, whole, folder):
    code, printed = run(runner, folder)
    assert code == 0, printed[-3000:]
    assert content(folder / "cache") == content(whole / "cache")


@pytest.mark.parametrize("doom", ["speak", "write"])
def test_dask_makes_up_for_a_worker_that_dies(doom, whole, folder):
    code, printed = run("dask", folder, doom)
    assert (folder / "died").exists()
    assert code == 0, printed[-3000:]
    assert content(folder / "cache") == content(whole / "cache")


@pytest.mark.parametrize("doom", ["speak", "write"])
def test_a_run_whose_worker_died_is_started_again(doom, whole, folder):
    (process,) = start(["-m", "tests.support.labelling_run", "processes", folder, doom])
    while not (folder / "died").exists():
        assert process.poll() is None, process.communicate()[0]
    # Beam's own runner waits for the dead one.
    process.kill()
    process.communicate()
    assert not shards.read_manifest(folder / "cache").complete
    code, printed = run("processes", folder, doom)
    assert code == 0, printed[-3000:]
    assert content(folder / "cache") == content(whole / "cache")


def test_the_cache_joins(whole, folder):
    x, y = data(200)
    labelled(folder, range(200))
    found = {}
    for where in (whole, folder):
        stored = open_cache(where / "cache")
        stored.verify()
        dataset = stored.join(indexed((x, y)).shuffle(50, seed=0).batch(20))
        found[where] = [np.array(leaf) for element in dataset for leaf in keras.tree.flatten(element)]
    for one, other in zip(found[whole], found[folder], strict=True):
        np.testing.assert_array_equal(other, one)


def test_examples_that_come_twice_are_kept_once(whole, folder):
    labelled(folder, [*range(200), *range(0, 200, 7)])
    assert content(folder / "cache") == content(whole / "cache")


def test_only_unfinished_shards_are_asked_about(whole, folder, monkeypatch):
    length = shards.read_manifest(whole / "cache").shard_examples
    write, asked, speak = shards.write_shard, [], _Speaking.__call__

    def full(directory, number, *arguments, **options):
        if number == 3:
            raise OSError(28, "No space left on device")
        return write(directory, number, *arguments, **options)

    monkeypatch.setattr(shards, "write_shard", full)
    with pytest.raises(Exception, match="No space left"):
        labelled(folder, range(200))
    written = len(list((folder / "cache").glob("[0-9]*.json")))
    assert written
    monkeypatch.setattr(shards, "write_shard", write)
    monkeypatch.setattr(_Speaking, "__call__", lambda self, x: (asked.append(len(x)), speak(self, x))[1])
    labelled(folder, range(200))
    assert sum(asked) == 200 - written * length
    assert content(folder / "cache") == content(whole / "cache")


@pytest.mark.parametrize("missing", [0, 13, 150, 198])
def test_a_missing_example_is_told(missing, folder):
    with pytest.raises(Exception, match=f"Example {missing} is missing, but later ones came"):
        labelled(folder, [number for number in range(200) if number != missing])
    assert not shards.read_manifest(folder / "cache").complete


def test_bad_examples_are_told(folder):
    x = examples()
    with pytest.raises(Exception, match="There were no examples to label"):
        labelled(folder, [])
    with pytest.raises(Exception, match="numbered from 0 on.*Received: -1"):
        labelled(folder, [-1, 0, 1])
    with pytest.raises(Exception, match="Two different examples.*number 3"):
        label_pairs(folder, [*enumerate(x[:5]), (3, x[7])])


def test_a_finished_cache_is_left_alone_and_of_others_refused(whole, folder):
    labelled(folder, range(200))
    before = content(folder / "cache")
    labelled(folder, range(200))
    # Batches that divide no shard, and larger ones than a shard.
    labelled(folder, range(200), batch_size=7)
    labelled(folder, range(200), batch_size=150)
    assert content(folder / "cache") == before
    x = examples()
    x[42] += 1
    with pytest.raises(Exception, match="Example 42 is not one that was labelled"):
        labelled(folder, range(200), x)
    with pytest.raises(Exception, match="Example 200 is not one that was labelled"):
        labelled(folder, range(205), data(205)[0])
    with pytest.raises(ValueError, match="holds a cache with other settings: version None instead of 'other'"):
        labelled(folder, range(200), version="other")
    assert content(folder / "cache") == before


def test_the_example_of_readme_runs_as_printed(whole, folder):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (example,) = (block for block in blocks if "LabelWithTeacher" in block)
    assert len(example.splitlines()) <= 20
    (folder / "example.py").write_text(example)
    np.save(folder / "x_train.npy", examples())
    [(code, printed)] = finish(start(["example.py"], folder=folder), deadline=200)
    assert code == 0, printed[-3000:]
    (_, logits), (_, others) = (
        split_inputs(open_cache(where / "cache").load(examples()))[:2] for where in (whole, folder)
    )
    np.testing.assert_allclose(others["output"], logits["output"], rtol=1e-6)
