"""What trials of a search cost, beside as many trainings of the student alone.

```
python -m tests.benchmarks.search --originals=FOLDER
```

Pictures of Fashion-MNIST, students of `recipes/fashion_mnist_hint.py` that learn from softened logits and labels. Both
validate after every epoch. In one process, taking turns. What a trial costs beside its steps (graphs that are made, and
checkpoints that are written) is the same for short and long ones, so that short ones have the larger ratio. The last
line is JSON:

    search_ratio             K trials whose teacher has spoken before / K trainings of the student alone, which is
                             compiled and fitted without KerasTuner
    search_ratio_labelling   the same with the teacher's run over the pictures among the trials
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

ROUNDS = flags.DEFINE_integer("search_rounds", 3, "How often each is timed.", lower_bound=1)
TRIALS = flags.DEFINE_integer("search_trials", 4, "Trials of a search.", lower_bound=1)
EPOCHS = flags.DEFINE_integer("search_epochs", 5, "Epochs of a training.", lower_bound=1)
EXAMPLES = flags.DEFINE_integer("search_examples", 36_000, "Pictures, a sixth of them to validate on.", lower_bound=6)
BATCH = 128


def compiled():
    """What both compile with."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return {"optimizer": keras.optimizers.Adam(2e-3), "loss": loss, "metrics": ["accuracy"]}


def parts(x, y):
    cut = EXAMPLES.value * 5 // 6
    validation = data.rows((x, y), slice(cut, None))
    options = {"validation_data": validation, "epochs": EPOCHS.value, "batch_size": BATCH, "verbose": 0}
    return data.rows((x, y), slice(cut)), options


def labelled(teacher, x, folder):
    label(teacher, x, folder, verbose=0)
    return open_cache(folder)


def search(stored, x, y):
    """All trials of a search."""
    hypermodel = DistillationHyperModel(
        student=lambda hp: cnn(8, "student"),
        teacher=stored.teacher,
        terms=lambda hp: [Term(KLDivergence(spaces.temperature(hp)), weight=1 - spaces.alpha(hp))],
        supervised_weight=spaces.alpha,
        **compiled(),
    )
    with tempfile.TemporaryDirectory() as folder:
        tuner = keras_tuner.RandomSearch(hypermodel, "val_accuracy", TRIALS.value, directory=folder)
        train, options = parts(stored.load(x), y)
        tuner.search(*train, **options)


def alone(x, y):
    """As many students, one after the other."""
    train, options = parts(x, y)
    for _ in range(TRIALS.value):
        keras.utils.clear_session()
        student = cnn(8, "student")
        student.compile(**compiled())
        student.fit(*train, **options)


def main(_):
    tf.get_logger().setLevel("ERROR")
    keras.utils.set_random_seed(0)
    x, y = data.fashion_mnist().head(EXAMPLES.value).train
    # Untrained: it takes as long.
    teacher = cnn(32, "teacher")
    with tempfile.TemporaryDirectory() as folder:
        stored = labelled(teacher, x, pathlib.Path(folder) / "before")

        def labelling_and_search():
            with tempfile.TemporaryDirectory() as anew:
                search(labelled(teacher, x, anew), x, y)

        functions = {
            "alone": lambda: alone(x, y),
            "search": lambda: search(stored, x, y),
            "labelling and search": labelling_and_search,
        }
        title = f"{TRIALS.value} trainings of {EPOCHS.value} epochs on {len(y):,} pictures"
        times = timing.interleaved(functions, ROUNDS.value, title)
    rows = [["", "seconds a training", "ratio"]]
    for name, taken in times.items():
        ratio = timing.ratio(taken, times["alone"])
        rows.append([name, f"{np.median(taken) / TRIALS.value:.2f}", f"{ratio:.3f}"])
    print("\n" + timing.table(rows) + "\n")
    ratios = {
        "search_ratio": timing.ratio(times["search"], times["alone"]),
        "search_ratio_labelling": timing.ratio(times["labelling and search"], times["alone"]),
    }
    print(json.dumps({name: round(value, 4) for name, value in ratios.items()}))


if __name__ == "__main__":
    app.run(main)
