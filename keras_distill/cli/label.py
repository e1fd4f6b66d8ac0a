"""Command `keras-distill label`."""

import argparse

from .argument_types import positive_integer, random_seed
from .common import CommandError, Commands, add_command, add_dataset, add_import, add_output, as_command_error


def add(commands: Commands) -> None:
    """Add the parser of the command."""
    parser = add_command(
        commands,
        "label",
        usage="TEACHER --dataset=SOURCE --out=DIR [options]",
        summary="cache a teacher's outputs for a dataset",
        description="Run a teacher once over a dataset and store its activations on disk, so that students are trained "
        "without running the teacher again. The size of the cache is printed before the first batch. Rerun the same "
        "command to resume after an interruption.",
        examples=(
            "keras-distill label teacher.keras --dataset=mnist --scale=1/255 --out=cache",
            "keras-distill label teacher.keras --dataset=train.npz --out=cache --tap=output --tap=block_3 "
            "--dtype=float16",
            "keras-distill label teacher.keras --dataset=images/ --out=cache --top-k=32",
        ),
        notes="\nTrain from the cache:\n"
        "    keras-distill distill teacher.keras student.keras --dataset=SOURCE --cache=cache --out=run\n"
        "or in Python:\n"
        "    stored = keras_distill.cache.open_cache('cache')\n"
        "    dataset = stored.join(keras_distill.data.datasets.open_dataset('mnist', scale=1 / 255))",
    )
    parser.add_argument("teacher", metavar="TEACHER", help=".keras file, loaded in Keras' safe mode")
    data = add_dataset(parser)
    data.add_argument(
        "--batch-size",
        type=positive_integer,
        default=128,
        metavar="N",
        help="examples per forward pass of the teacher, >= 1 (default: 128)",
    )
    data.add_argument(
        "--engine",
        choices=("keras", "onnx"),
        default="keras",
        help="runtime of the teacher; onnx runs it in ONNX Runtime on the CPU, often faster (default: keras)",
    )
    data.add_argument(
        "--augment",
        metavar="AUGMENTATION",
        help="label new examples that are made from those of the dataset: Mixup, CutMix, Crops, Shifts, Munge, "
        "WordDrop or Recombination, with settings such as 'Crops(area=0.6)'; "
        "`keras_distill.data.augment_dataset` makes the same ones (default: the examples themselves)",
    )
    data.add_argument(
        "--augment-size",
        type=positive_integer,
        default=10,
        metavar="N",
        help="number of new examples per example (default: 10)",
    )
    data.add_argument(
        "--augment-seed", type=random_seed, default=0, metavar="N", help="seed of the new examples (default: 0)"
    )
    output = add_output(parser, metavar="DIR", help="directory of the cache; resumed if it is incomplete")
    output.add_argument(
        "--tap",
        action="append",
        dest="taps",
        metavar="TAP",
        help="activation to store, as listed by `inspect`; may be repeated (default: output)",
    )
    output.add_argument(
        "--dtype", default="float32", help="dtype on disk: float32, float16 or bfloat16 (default: float32)"
    )
    output.add_argument(
        "--top-k",
        type=positive_integer,
        metavar="K",
        help="store only the K most probable classes of the output and the sum of the others; "
        "1 <= K < number of classes (default: store all classes)",
    )
    add_import(parser)
    parser.set_defaults(run=run, resumable=True)


def run(options: argparse.Namespace) -> None:
    """Write the cache."""
    from .reading import examples, load

    teacher = load(options.teacher, options.modules)

    from keras_distill.cache import label
    from keras_distill.models.softmax import ends_in_softmax
    from keras_distill.models.taps import OUTPUT

    taps = tuple(options.taps or [OUTPUT])
    with as_command_error(f"cannot label {options.dataset}"):
        dataset = _augmented(options, examples(options, teacher))
        if OUTPUT in taps and ends_in_softmax(teacher):
            print("The teacher ends in a softmax. The cache stores its logits, which losses compare.")
        settings = {"dtype": options.dtype, "top_k": options.top_k, "engine": options.engine}
        label(teacher, dataset, options.out, taps, **settings, batch_size=options.batch_size)
    print(f"Wrote the cache to {options.out}. Open it in Python: keras_distill.cache.open_cache({options.out!r})")


def _augmented(options, dataset):
    """Return the examples to label: those of the dataset, or new ones."""
    if options.augment is None:
        return dataset
    from keras_distill.data import augment_dataset

    from .transfer import augmentation

    found = augmentation(options.augment, "--augment")
    if found is None:
        raise CommandError(f"--augment={options.augment} is not an augmentation. See --help.")
    return augment_dataset(found, dataset, options.augment_size, options.augment_seed)
