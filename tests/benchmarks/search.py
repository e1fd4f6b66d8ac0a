"""Benchmark of the trials of a search against the same number of trainings of the baseline.

```
python -m tests.benchmarks.search --originals=FOLDER
```

Images of Fashion-MNIST; students of `recipes/fashion_mnist_hint.py` that learn from soft targets and labels. Both
validate after every epoch. All functions are timed in one process, in turn. The overhead of a trial (tracing and
checkpoints) does not depend on its length, so short trials have a larger ratio. The last line is JSON:

    search_ratio             K trials with cached teacher outputs / K trainings of the baseline, which is compiled and
                             fitted without KerasTuner
    search_ratio_labelling   the same, including the computation of the teacher outputs
"""

import json
import pathlib
import tempfile

import keras
import keras_tuner
import numpy as np
import tensorflow as tf
from absl import app, flags

from keras_distill import Term
from keras_distill.cache import label, open_cache
from keras_distill.losses import KLDivergence
from keras_distill.tuning import DistillationHyperModel, spaces
from recipes import data
from recipes.fashion_mnist_hint import cnn
from tests.benchmarks import timing

ROUNDS = flags.DEFINE_integer("search_rounds", 3, "Number of timings of each function.", lower_bound=1)
TRIALS = flags.DEFINE_integer("search_trials", 4, "Number of trials of a search.", lower_bound=1)
EPOCHS = flags.DEFINE_integer("search_epochs", 5, "Number of epochs of a training.", lower_bound=1)
EXAMPLES = flags.DEFINE_integer(
    "search_examples", 36_000, "Number of images, a sixth of them for validation.", lower_bound=6
)
BATCH = 128


def compile_arguments():
    """Return the arguments of `compile` of students and baselines."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return {"optimizer": keras.optimizers.Adam(2e-3), "loss": loss, "metrics": ["accuracy"]}


def training_split(x, y):
    cut = EXAMPLES.value * 5 // 6
    validation = data.rows((x, y), slice(cut, None))
    options = {"validation_data": validation, "epochs": EPOCHS.value, "batch_size": BATCH, "verbose": 0}
    return data.rows((x, y), slice(cut)), options


def label_and_open(teacher, x, folder):
    label(teacher, x, folder, verbose=0)
    return open_cache(folder)


def search(stored, x, y):
    """Run all trials of a search."""
    hypermodel = DistillationHyperModel(
        student=lambda hp: cnn(8, "student"),
        teacher=stored.teacher,
        terms=lambda hp: [Term(KLDivergence(spaces.temperature(hp)), weight=1 - spaces.alpha(hp))],
        supervised_weight=spaces.alpha,
        **compile_arguments(),
    )
    with tempfile.TemporaryDirectory() as folder:
        tuner = keras_tuner.RandomSearch(hypermodel, "val_accuracy", TRIALS.value, directory=folder)
        train, options = training_split(stored.load(x), y)
        tuner.search(*train, **options)


def train_baselines(x, y):
    """Train the same number of baselines, one after the other."""
    train, options = training_split(x, y)
    for _ in range(TRIALS.value):
        keras.utils.clear_session()
        student = cnn(8, "student")
        student.compile(**compile_arguments())
        student.fit(*train, **options)


def main(_):
    tf.get_logger().setLevel("ERROR")
    keras.utils.set_random_seed(0)
    x, y = data.fashion_mnist().head(EXAMPLES.value).train
    # Untrained: the weights do not affect the time.
    teacher = cnn(32, "teacher")
    with tempfile.TemporaryDirectory() as folder:
        stored = label_and_open(teacher, x, pathlib.Path(folder) / "before")

        def labelling_and_search():
            with tempfile.TemporaryDirectory() as other_folder:
                search(label_and_open(teacher, x, other_folder), x, y)

        functions = {
            "baseline": lambda: train_baselines(x, y),
            "search": lambda: search(stored, x, y),
            "labelling and search": labelling_and_search,
        }
        title = f"{TRIALS.value} trainings of {EPOCHS.value} epochs on {len(y):,} images"
        times = timing.interleaved(functions, ROUNDS.value, title)
    rows = [["", "seconds per training", "ratio"]]
    for name, seconds in times.items():
        ratio = timing.ratio(seconds, times["baseline"])
        rows.append([name, f"{np.median(seconds) / TRIALS.value:.2f}", f"{ratio:.3f}"])
    print("\n" + timing.table(rows) + "\n")
    ratios = {
        "search_ratio": timing.ratio(times["search"], times["baseline"]),
        "search_ratio_labelling": timing.ratio(times["labelling and search"], times["baseline"]),
    }
    print(json.dumps({name: round(value, 4) for name, value in ratios.items()}))


if __name__ == "__main__":
    app.run(main)
