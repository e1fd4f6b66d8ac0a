"""keras-distill label"""

from .common import add_dataset, add_import, as_command_error, command, positive_integer


def add(commands):
    parser = command(
        commands,
        "label",
        "run a teacher once over a data set and keep what it says",
        "Runs a teacher once over a data set and keeps its activations, for students that are trained without it. "
        "The size is shown before it starts. A run that was interrupted goes on when it is started again.",
        "keras-distill label teacher.keras --dataset=mnist --scale=1/255 --out=cache",
        "keras-distill label teacher.keras --dataset=train.npz --out=cache --tap=output --tap=block_3 --dtype=float16",
        "keras-distill label teacher.keras --dataset=pictures/ --out=cache --top-k=32",
        after="\nThen: keras-distill distill teacher.keras student.keras --dataset=... --cache=cache --out=run\n"
        "In Python: stored = keras_distill.cache.open_cache('cache'), and\n"
        "stored.join(keras_distill.data.datasets.open_dataset('mnist', scale=1 / 255)).",
    )
    parser.add_argument("teacher", metavar="TEACHER", help="a .keras file; it is read in Keras' safe mode")
    add_dataset(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="where to keep it")
    parser.add_argument(
        "--tap",
        action="append",
        dest="taps",
        metavar="TAP",
        help="what to keep, as `inspect` lists it; may be repeated; default output",
    )
    parser.add_argument("--dtype", default="float32", help="float32, float16 or bfloat16; default float32")
    parser.add_argument(
        "--top-k",
        type=positive_integer,
        metavar="K",
        help="keep only so many classes of the output, and the others' sum",
    )
    parser.add_argument(
        "--batch-size", type=positive_integer, default=128, help="examples that the teacher sees at once"
    )
    add_import(parser)
    parser.set_defaults(run=run, goes_on=True)


def run(options):
    from .reading import examples, load

    teacher = load(options.teacher, options.modules)

    from keras_distill.cache import label
    from keras_distill.models.taps import OUTPUT

    from .softmax import LOGITS, without_softmax

    taps = tuple(options.taps or [OUTPUT])
    with as_command_error(f"cannot label {options.dataset}"):
        dataset = examples(options, teacher)
        version = LOGITS if without_softmax(teacher) else None
        if version and OUTPUT in taps:
            print("The teacher ends in a softmax. Its logits are kept, which losses compare.")
        kept = {"dtype": options.dtype, "top_k": options.top_k, "version": version}
        label(teacher, dataset, options.out, taps, **kept, batch_size=options.batch_size)
    print(f"Written to {options.out}: keras_distill.cache.open_cache({options.out!r})")
