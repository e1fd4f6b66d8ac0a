"""Runtimes of exported files and their measured costs."""

import sys

import keras
import numpy as np
import pytest

from keras_distill.compression import export
from keras_distill.compression.runtimes import latency, measure_costs, runtime

FORMATS = ["saved_model", "onnx", "litert_float32"]


def wide(units, name):
    inputs = keras.Input((256,))
    return keras.Model(inputs, keras.layers.Dense(8)(keras.layers.Dense(units)(inputs)), name=name)


@pytest.mark.parametrize("format", FORMATS)
def test_memory_and_latency_grow_with_the_weights(format, tmp_path):
    x, costs = np.ones((4, 256), "float32"), {}
    for units in (64, 16_384):
        (exported,) = export(wide(units, f"of_{units}"), tmp_path, x, [format])
        costs[units] = measure_costs(exported.path, format, x[:1])
    weights = 4 * 16_384 * 264
    assert weights < costs[16_384].memory < 6 * weights
    assert costs[64].memory < costs[16_384].memory - 0.9 * weights
    assert costs[64].median < costs[16_384].median <= costs[16_384].p95


def test_litert_runs_with_the_interpreter_of_tensorflow(tmp_path, monkeypatch):
    x = np.random.default_rng(0).normal(size=(4, 256)).astype("float32")
    model = wide(8, "small")
    (exported,) = export(model, tmp_path, x, ["litert_float32"])
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    np.testing.assert_allclose(runtime(exported.path, "litert_float32")(x), model(x), rtol=1e-4, atol=1e-5)


def test_onnx_error_names_the_package(tmp_path, monkeypatch):
    model, x = wide(8, "small"), np.ones((4, 256), "float32")
    (exported,) = export(model, tmp_path, x, ["onnx"])
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match="requires onnxruntime. Run: pip install 'keras-distill\\[export\\]'"):
        runtime(exported.path, "onnx")


def test_error_of_a_file_that_fails(tmp_path):
    (tmp_path / "broken.tflite").write_bytes(b"no model")
    with pytest.raises(RuntimeError, match="broken.tflite' failed in a separate process: ValueError"):
        measure_costs(tmp_path / "broken.tflite", "litert_int8", np.ones((1, 4), "float32"))


def test_latency_of_a_function():
    calls = []
    median, p95 = latency(calls.append, np.ones((1, 2)), repeats=30)
    assert len(calls) == 40
    assert 0 < median <= p95 < 50
