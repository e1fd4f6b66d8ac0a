"""Command `keras-distill label`, and `keras-distill check` of the cache that it wrote."""

import keras
import numpy as np
import pytest

from keras_distill.cache import open_cache
from keras_distill.cli import main
from keras_distill.data import Munge, augment_dataset
from keras_distill.data.batch import split_inputs
from keras_distill.data.datasets import open_dataset
from tests.support.helpers import data, mlp

pytestmark = pytest.mark.processes


def test_check_verifies_what_label_wrote(path, npz, tmp_path, capsys):
    out = tmp_path / "cache"
    arguments = ["label", str(path), f"--dataset={npz}", f"--out={out}", "--tap=output", "--tap=features", "--top-k=2"]
    for _ in range(2):
        assert main([*arguments, "--dtype=float16"]) == 0
    assert "Labeling into" in capsys.readouterr().out
    assert main(["check", str(out), "--teacher", str(path)]) == 0
    output = capsys.readouterr().out.splitlines()
    lines = [line.split() for line in output]
    assert lines[1] == ["output", "(3,)", "float16", "top", "2"] and lines[2] == ["features", "(8,)", "float16", "all"]
    assert lines[3] == ["24", "examples"]
    assert output[-1] == "The cache is intact: all files match their checksums."
    stored = open_cache(out)
    assert len(list(stored.join(open_dataset(npz)).batch(24))) == 1
    file = next(out.glob("*features.npy"))
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert main(["check", str(out)]) == 1
    assert f"{file}' has changed since it was written" in capsys.readouterr().err


def test_label_with_another_engine(path, npz, tmp_path):
    assert main(["label", str(path), f"--dataset={npz}", f"--out={tmp_path / 'cache'}", "--engine=onnx"]) == 0
    stored = open_cache(tmp_path / "cache")
    assert stored.engine == "onnx"
    logits = split_inputs(stored.load(data()[0]))[1]["output"]
    np.testing.assert_allclose(logits, keras.saving.load_model(path)(data()[0]), rtol=1e-5, atol=1e-6)


def test_check_detects_a_cache_of_another_teacher(path, npz, tmp_path, capsys):
    main(["label", str(path), f"--dataset={npz}", f"--out={tmp_path / 'cache'}"])
    mlp(name="other", bias_initializer="ones").save(tmp_path / "other.keras")
    assert main(["check", str(tmp_path / "cache"), "--teacher", str(tmp_path / "other.keras")]) == 1
    assert "a cache of another teacher" in capsys.readouterr().err


def test_an_interrupted_label_can_be_resumed(path, npz, tmp_path, monkeypatch, capsys):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("keras_distill.cache.label", interrupted)
    assert main(["label", str(path), f"--dataset={npz}", f"--out={tmp_path}"]) == 130
    assert "keras-distill: interrupted. Rerun the same command to resume." in capsys.readouterr().err


def test_label_stores_logits_of_a_teacher_with_a_softmax(path, npz, tmp_path, capsys):
    teacher = keras.saving.load_model(path)
    teacher.add(keras.layers.Softmax())
    teacher.save(tmp_path / "softmax.keras")
    assert main(["label", str(tmp_path / "softmax.keras"), f"--dataset={npz}", f"--out={tmp_path / 'cache'}"]) == 0
    assert "ends in a softmax. The cache stores its logits" in capsys.readouterr().out
    (joined,) = open_cache(tmp_path / "cache").join(open_dataset(npz)).batch(24)
    stored = split_inputs(joined[0])[1]["output"]
    np.testing.assert_allclose(stored, keras.saving.load_model(path)(data()[0]), rtol=1e-5, atol=1e-6)


def test_new_examples_are_those_of_augment_dataset(path, npz, tmp_path, capsys):
    out, dataset = tmp_path / "cache", open_dataset(npz)
    options = ["--augment=Munge(probability=0.3)", "--augment-size=2", "--augment-seed=5"]
    assert main(["label", str(path), f"--dataset={npz}", f"--out={out}", *options]) == 0
    new = augment_dataset(Munge(0.3), dataset, size=2, seed=5)
    ((inputs, _),) = open_cache(out).join(new).batch(48)
    x, cached, _ = split_inputs(inputs)
    expected = keras.saving.load_model(path).predict(x, verbose=0)
    np.testing.assert_allclose(cached["output"], expected, rtol=1e-4, atol=1e-5)
    assert main(["label", str(path), f"--dataset={npz}", f"--out={tmp_path / 'other'}", "--augment=missing"]) == 1
    assert "--augment=missing is not an augmentation" in capsys.readouterr().err
