"""Option `--cache` of `keras-distill distill`."""

import keras
import numpy as np
import pytest

from keras_distill.cache import open_cache
from keras_distill.cli import main
from keras_distill.data.batch import split_inputs
from tests.support.distill_command import histories, trained
from tests.support.helpers import assert_same_weights, weights_of

pytestmark = pytest.mark.everyday


@pytest.mark.parametrize("validation", ["0.25", "{folder}/test.npz"])
def test_a_cache_trains_like_its_teacher(validation, folder, tmp_path, distill):
    options = ["--epochs=2", f"--validation={validation.format(folder=folder)}", "--hint=block_1:block_3"]
    distill(*options, "--no-cache", out="online")
    distill(*options, f"--cache={tmp_path / 'cache'}", out="cached")
    written = (tmp_path / "cache" / "manifest.json").stat().st_mtime_ns
    assert_same_weights(weights_of(trained(tmp_path, "online")), weights_of(trained(tmp_path, "cached")), rtol=1e-4)
    for row, other in zip(*(histories(tmp_path, out)["distilled"] for out in ("online", "cached"))):
        assert row == pytest.approx(other, rel=1e-3)
    distill(*options, f"--cache={tmp_path / 'cache'}", out="again")
    assert (tmp_path / "cache" / "manifest.json").stat().st_mtime_ns == written
    assert not list((tmp_path / "cached").rglob("checkpoints"))


def test_a_cache_written_by_label_is_reused(folder, tmp_path, distill, capsys):
    cache = str(tmp_path / "cache")
    arguments = ["label", str(folder / "teacher.keras"), f"--dataset={folder / 'train.npz'}", f"--out={cache}"]
    assert main([*arguments, "--tap=output", "--tap=block_3", "--dtype=float16"]) == 0
    distill("--epochs=1", f"--cache={cache}")
    distill("--epochs=1", f"--cache={cache}", "--hint=block_1:block_3", out="hinted")
    printed = distill("--epochs=1", f"--cache={cache}", "--hint=block_1:block_2", out="more", status=1)
    assert "holds ['output', 'block_3'], but not ['block_2']" in printed.err
    assert "Label the dataset with the taps ['block_2', 'output'] into another folder" in printed.err
    printed = distill("--epochs=1", f"--cache={cache}", dataset="one_hot.npz", out="others")
    np.savez(folder / "reversed.npz", **{name: array[::-1] for name, array in np.load(folder / "train.npz").items()})
    printed = distill("--epochs=1", f"--cache={cache}", dataset="reversed.npz", out="reversed", status=1)
    assert "holds a cache of other examples" in printed.err


def test_a_cache_of_a_softmax_teacher_holds_logits(folder, tmp_path, distill):
    teacher = keras.saving.load_model(folder / "teacher.keras")
    x = np.load(folder / "train.npz")["x"]
    logits = teacher.predict(x, verbose=0)
    teacher.layers[-1].activation = keras.activations.softmax
    teacher.save(folder / "probabilities.keras")
    cache = str(tmp_path / "cache")
    arguments = [str(folder / "probabilities.keras"), f"--dataset={folder / 'train.npz'}", f"--out={cache}"]
    assert main(["label", *arguments]) == 0
    stored = split_inputs(open_cache(cache).load(x))[1]["output"]
    np.testing.assert_allclose(stored, logits, rtol=1e-5, atol=1e-6)
    printed = distill("--epochs=1", f"--cache={cache}", teacher="probabilities.keras")
    assert "probabilities" not in printed.err
