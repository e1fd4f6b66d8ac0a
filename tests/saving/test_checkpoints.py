"""The files of a backup: whole, or passed over."""

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


def three(folder):
    """A folder in which three snapshots were written."""
    number = None
    for step in range(1, 4):
        number = checkpoints.write(folder, ARRAYS, {"step": step}, keep=[number])
    return folder


def test_arrays_and_notes_come_back(tmp_path):
    notes = {"best": float("inf"), "loss": np.float32(0.1), "history": {"loss": [0.1, 1 / 3]}}
    checkpoints.write(tmp_path / "new", ARRAYS, notes)
    found, number = checkpoints.latest(tmp_path / "new")
    assert found == {"best": float("inf"), "loss": float(np.float32(0.1)), "history": {"loss": [0.1, 1 / 3]}}
    read = checkpoints.read(tmp_path / "new", number)
    assert list(read) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array, strict=True)


def test_nothing_is_there_before_the_first(tmp_path):
    assert checkpoints.latest(tmp_path / "new") == (None, None)


def test_the_two_latest_are_kept(tmp_path):
    names = sorted(path.name for path in three(tmp_path).iterdir())
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
    ("damage", "name", "said"),
    [
        (truncate, "arrays", "00000003 is damaged"),
        (flip, "arrays", "00000003 is damaged"),
        (lambda path: path.unlink(), "arrays", "00000003 is damaged"),
        (truncate, "json", "00000003 is damaged"),
        (change_a_number, "json", "00000003 is damaged"),
        (lambda path: path.unlink(), "json", "00000003 was not finished"),
        (lambda path: path.rename(f"{path}.unfinished"), "json", "00000003 was not finished"),
    ],
    ids=["truncated", "flipped", "no arrays", "half a marker", "another number", "no marker", "killed while writing"],
)
def test_what_is_not_whole_is_passed_over(tmp_path, damage, name, said):
    damage(three(tmp_path) / f"00000003.{name}")
    with pytest.warns(UserWarning, match=f"{said}.*Going on from 00000002, the one before"):
        notes, number = checkpoints.latest(tmp_path)
    assert (notes["step"], number) == (2, 2)
    # The next takes no number twice, and clears away what is broken.
    assert checkpoints.write(tmp_path, ARRAYS, {"step": 3}, keep=[number]) > 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checkpoints.latest(tmp_path)[0]["step"] == 3
    assert len(list(tmp_path.iterdir())) == 4


def test_if_none_is_whole_it_says_so(tmp_path):
    three(tmp_path)
    flip(tmp_path / "00000002.arrays")
    truncate(tmp_path / "00000003.json")
    with pytest.raises(ValueError, match="No backup in .* is whole: 00000003 .*00000002 .* delete the folder to begin"):
        checkpoints.latest(tmp_path)


def test_killed_in_the_first_it_begins_anew(tmp_path):
    (tmp_path / "00000001.arrays.unfinished").write_bytes(b"half")
    with pytest.warns(UserWarning, match="00000001 was not finished. Beginning anew"):
        assert checkpoints.latest(tmp_path) == (None, None)


def test_a_later_format_is_told(tmp_path):
    checkpoints.write(tmp_path, ARRAYS, {})
    marker = tmp_path / "00000001.json"
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {"format": 2}))
    with pytest.raises(ValueError, match="format 2, and this keras_distill reads 1"):
        checkpoints.latest(tmp_path)


def test_nothing_is_unpickled(tmp_path):
    with pytest.raises(ValueError, match="[Oo]bject arrays"):
        checkpoints.write(tmp_path, {"object": np.array([{}])}, {})
    assert list(tmp_path.iterdir()) == []


def test_removing_leaves_what_others_wrote(tmp_path):
    three(tmp_path / "own")
    checkpoints.remove(tmp_path / "own")
    assert not (tmp_path / "own").exists()
    (three(tmp_path / "shared") / "notes.txt").write_text("mine")
    checkpoints.remove(tmp_path / "shared")
    assert [path.name for path in (tmp_path / "shared").iterdir()] == ["notes.txt"]
