"""Atomic file writes."""

import pytest

from keras_distill.utils.files import UNFINISHED_SUFFIX, atomic_path, atomic_write, is_local


@pytest.mark.parametrize("several", [False, True])
def test_the_file_is_replaced_at_the_end(tmp_path, several):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with atomic_write(path, several) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
        (unfinished,) = tmp_path.glob(f"*{UNFINISHED_SUFFIX}")
        assert unfinished.read_bytes() == b"new"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_keeps_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail():
        with atomic_write(path) as file:
            file.write(b"new")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_local_paths(tmp_path):
    assert is_local(tmp_path)
    assert not is_local("gs://bucket/file")


@pytest.mark.parametrize("as_folder", [False, True])
def test_a_path_is_replaced_at_the_end(tmp_path, as_folder):
    path = tmp_path / "model.keras"

    def write(target, text):
        if as_folder:
            target.mkdir()
            target /= text
        target.write_text(text)

    def content():
        return [file.read_text() for file in sorted(path.iterdir())] if as_folder else [path.read_text()]

    for text in ("first", "second"):
        with atomic_path(path) as unfinished:
            assert unfinished.name == path.name
            write(unfinished, text)
            assert path.exists() == (text == "second")
        assert content() == [text]

    def fail():
        with atomic_path(path) as unfinished:
            write(unfinished, "third")
            raise OSError("disk is full")

    with pytest.raises(OSError, match="disk is full"):
        fail()
    assert content() == ["second"]
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
