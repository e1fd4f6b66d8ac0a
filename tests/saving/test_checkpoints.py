"""Checkpoint files: intact, or skipped."""

import json
import warnings

import keras
import numpy as np
import pytest

from keras_distill.saving import checkpoints

ARRAYS = {
    "kernel": np.arange(12, dtype="float32").reshape(3, 4),
    "scalar": np.float64(0.1),
    "step": np.int64(7),
    "flags": np.array([True, False]),
    "empty": np.zeros((0, 3), "float32"),
    "half": np.array(keras.ops.convert_to_numpy(keras.ops.cast([1.5, -2.0], "bfloat16"))),
}


def write_three(folder):
    """Write three checkpoints into a folder and return it."""
    number = None
    for step in range(1, 4):
        number = checkpoints.write(folder, ARRAYS, {"step": step}, keep=[number])
    return folder


def test_arrays_and_metadata_come_back(tmp_path):
    metadata = {"best": float("inf"), "loss": np.float32(0.1), "history": {"loss": [0.1, 1 / 3]}}
    checkpoints.write(tmp_path / "new", ARRAYS, metadata)
    found, number = checkpoints.latest(tmp_path / "new")
    assert found == {"best": float("inf"), "loss": float(np.float32(0.1)), "history": {"loss": [0.1, 1 / 3]}}
    read = checkpoints.read(tmp_path / "new", number)
    assert list(read) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array, strict=True)


def test_a_new_folder_has_no_checkpoint(tmp_path):
    assert checkpoints.latest(tmp_path / "new") == (None, None)


def test_the_two_latest_are_kept(tmp_path):
    names = sorted(path.name for path in write_three(tmp_path).iterdir())
    assert names == ["00000002.arrays", "00000002.json", "00000003.arrays", "00000003.json"]


def truncate(path):
    path.write_bytes(path.read_bytes()[:-5])


def flip(path, at=-1):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def change_a_number(path):
    path.write_text(path.read_text().replace('"step": 3', '"step": 4'))


@pytest.mark.parametrize(
    ("damage", "name", "fault"),
    [
        (truncate, "arrays", "00000003 is corrupted"),
        (flip, "arrays", "00000003 is corrupted"),
        (lambda path: path.unlink(), "arrays", "00000003 is corrupted"),
        (truncate, "json", "00000003 is corrupted"),
        (change_a_number, "json", "00000003 is corrupted"),
        (lambda path: path.unlink(), "json", "00000003 is incomplete"),
        (lambda path: path.rename(f"{path}.unfinished"), "json", "00000003 is incomplete"),
    ],
    ids=["truncated", "flipped", "no arrays", "half a marker", "another number", "no marker", "killed while writing"],
)
def test_a_checkpoint_that_is_not_intact_is_skipped(tmp_path, damage, name, fault):
    damage(write_three(tmp_path) / f"00000003.{name}")
    with pytest.warns(UserWarning, match=f"{fault}.*Resuming from the previous one, 00000002"):
        metadata, number = checkpoints.latest(tmp_path)
    assert (metadata["step"], number) == (2, 2)
    # The next checkpoint uses no number twice, and deletes the corrupted one.
    assert checkpoints.write(tmp_path, ARRAYS, {"step": 3}, keep=[number]) > 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checkpoints.latest(tmp_path)[0]["step"] == 3
    assert len(list(tmp_path.iterdir())) == 4


def test_no_intact_checkpoint_raises(tmp_path):
    write_three(tmp_path)
    flip(tmp_path / "00000002.arrays")
    truncate(tmp_path / "00000003.json")
    with pytest.raises(
        checkpoints.CorruptedCheckpointError,
        match="No checkpoint in .* is intact: 00000003 .*00000002 .* delete the folder to start from scratch",
    ):
        checkpoints.latest(tmp_path)


def test_a_run_that_was_killed_in_its_first_checkpoint_starts_from_scratch(tmp_path):
    (tmp_path / "00000001.arrays.unfinished").write_bytes(b"half")
    with pytest.warns(UserWarning, match="00000001 is incomplete. Starting from scratch"):
        assert checkpoints.latest(tmp_path) == (None, None)


@pytest.mark.parametrize(
    ("format", "version"), [(1, "keras_distill 0.1.0"), (3, "another version of keras_distill")], ids=["older", "newer"]
)
def test_another_format_raises(tmp_path, format, version):
    checkpoints.write(tmp_path, ARRAYS, {})
    marker = tmp_path / "00000001.json"
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {"format": format}))
    expected = (
        rf"The checkpoints in '{tmp_path}' were written by {version} \(format {format}, this version reads 2\): "
        "resume with that version, or delete the folder to start from scratch."
    )
    with pytest.raises(checkpoints.CheckpointFormatError, match=f"^{expected}$"):
        checkpoints.latest(tmp_path)


def test_remove_deletes_checkpoints_of_another_format(tmp_path):
    checkpoints.write(tmp_path, ARRAYS, {})
    marker = tmp_path / "00000001.json"
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {"format": 1}))
    checkpoints.remove(tmp_path)
    assert checkpoints.latest(tmp_path) == (None, None)


def test_nothing_is_unpickled(tmp_path):
    with pytest.raises(ValueError, match="[Oo]bject arrays"):
        checkpoints.write(tmp_path, {"object": np.array([{}])}, {})
    assert list(tmp_path.iterdir()) == []


def test_remove_keeps_other_files(tmp_path):
    write_three(tmp_path / "own")
    checkpoints.remove(tmp_path / "own")
    assert not (tmp_path / "own").exists()
    (write_three(tmp_path / "shared") / "notes.txt").write_text("mine")
    checkpoints.remove(tmp_path / "shared")
    assert [path.name for path in (tmp_path / "shared").iterdir()] == ["notes.txt"]
