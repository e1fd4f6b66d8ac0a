"""What is refused, or warned of, before training starts."""

import collections
import dataclasses
import itertools
import re
import warnings

import keras
import tensorflow as tf

from keras_distill.distribution import replicas
from keras_distill.models.masking import mask_fits
from keras_distill.models.specs import Spec
from keras_distill.models.taps import tap_names
from keras_distill.training.term import Term

_CROSSENTROPIES = (
    keras.losses.SparseCategoricalCrossentropy,
    keras.losses.CategoricalCrossentropy,
    keras.losses.BinaryCrossentropy,
)
# How gradients may be added up within a loop that TensorFlow traces.
_IN_LOOPS = (
    tf.distribute.HierarchicalCopyAllReduce,
    tf.distribute.NcclAllReduce,
    tf.distribute.ReductionToOneDevice,
)


def name_terms(terms, teacher):
    """The terms, each under a name of its own: the user's, or the loss's with a number behind where it recurs.

    Raises:
        ValueError: If there are no terms although there is a teacher, or the reverse, if they are not `Term`s, or if
            the user gave a name twice.
    """
    if not isinstance(terms, (list, tuple)) or not all(isinstance(term, Term) for term in terms):
        raise ValueError(f"`terms` must be a list of Term. Received: {terms!r}")
    if not terms and teacher is not None:
        raise ValueError("`terms` is empty: nothing would be distilled. Pass at least [Term(KLDivergence())].")
    if terms and teacher is None:
        raise ValueError(
            f"`teacher` is None, so the {len(terms)} terms have nothing to compare with. Pass one, or no terms."
        )
    given = [term.name for term in terms if term.name is not None]
    twice = [name for name, count in collections.Counter([*given, "supervised"]).items() if count > 1]
    if twice:
        raise ValueError(
            f"Each term needs a name of its own, other than 'supervised'. Received more than once: {twice}."
        )
    taken, result = set(given), []
    for term in terms:
        name = base = (
            term.name
            or re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(term.loss).__name__).lower()
        )
        number = 1
        while term.name is None and name in taken:
            number += 1
            name = f"{base}_{number}"
        taken.add(name)
        result.append(dataclasses.replace(term, name=name))
    return result


def check_models(student, teacher):
    """Refuses a student that is none, or is in part the teacher, and a teacher that has nothing to teach.

    Raises:
        ValueError: Naming the weights in question.
    """
    if not isinstance(student, keras.Model):
        raise ValueError(f"The student must be a keras.Model. Received: {student!r}")
    check_scope({f"student '{student.name}'": student, "teacher": teacher})
    if any(model is student for model in teacher.models):
        raise ValueError(
            f"Student and teacher are the same model, '{student.name}'. Train a copy: keras.models.clone_model."
        )
    shared = _shared(student, teacher)
    if shared:
        raise ValueError(
            f"'{student.name}' shares the weights {_some(shared)} with its teacher, which must not change while it "
            "teaches. Give the student layers of its own, and copy the values with `set_weights`."
        )
    broken = _broken(teacher)
    if broken:
        raise ValueError(f"The teacher's weights {_some(broken)} hold NaN or infinity. Was it trained and loaded well?")


def check_peers(peers):
    """Refuses peers that are not two models or more, each with weights of its own.

    Args:
        peers: `{name: model}`.

    Raises:
        ValueError: Naming the peers, and the weights in question.
    """
    if not isinstance(peers, dict):
        raise ValueError(f"`peers` must be a list of models, or a dictionary of them under names. Received: {peers!r}")
    if len(peers) < 2:
        raise ValueError(f"Two peers or more teach one another. Received: {list(peers)}.")
    strange = {name: peer for name, peer in peers.items() if not isinstance(peer, keras.Model)}
    if strange:
        raise ValueError(f"Each peer must be a keras.Model. Received: {strange!r}")
    unfit = [name for name in peers if not (isinstance(name, str) and name)]
    if unfit:
        raise ValueError(f"Each peer needs a name, under which the logs show it. Received: {unfit}.")
    for (first, one), (second, other) in itertools.combinations(peers.items(), 2):
        shared = _shared(one, other)
        if one is other or shared:
            what = f"the weights {_some(shared)}" if one is not other else "one model"
            raise ValueError(
                f"The peers '{first}' and '{second}' share {what}: they would always agree there. Make each from "
                "layers of its own."
            )
    check_scope({f"peer '{name}'": peer for name, peer in peers.items()})
    for name, peer in peers.items():
        if _broken(peer):
            raise ValueError(f"The weights {_some(_broken(peer))} of peer '{name}' hold NaN or infinity.")


def check_predictions(predictions, tap):
    """Refuses peers whose predictions are not logits of the same classes.

    Args:
        predictions: `{peer: Spec}`, or a structure of `Spec` for a model of several outputs.
        tap: Where they are.

    Raises:
        ValueError: Naming the peers and shapes.
    """
    for name, spec in predictions.items():
        if not isinstance(spec, Spec):
            entries = list(spec) if isinstance(spec, dict) else list(range(len(spec)))
            raise ValueError(
                f"Peer '{name}' returns a structure with the entries {entries}. Choose one: "
                f"logits='{tap}[{entries[0]}]'."
            )
        if spec.probabilities:
            raise ValueError(
                f"Peers compare logits, but '{tap}' of peer '{name}' ends in a {spec.source.lower()}. Say with "
                "`logits=` which layer comes before it, or give that layer no activation."
            )
    shapes = {name: spec.shape for name, spec in predictions.items()}
    if len({shape[-1:] for shape in shapes.values()}) > 1:
        raise ValueError(f"Peers must have the same classes in the same order. Received at '{tap}': {shapes}.")


def check_scope(models):
    """Refuses strategies that Keras cannot train under, and models that were made under another one than this.

    Args:
        models: `{what it is: model, or teacher}`.

    Raises:
        ValueError: Naming the model and the strategy.
    """
    strategy = tf.distribute.get_strategy()
    if isinstance(strategy, tf.distribute.ParameterServerStrategy):
        raise ValueError(
            "Keras 3 does not train under ParameterServerStrategy. Use MirroredStrategy on one machine, "
            "MultiWorkerMirroredStrategy on several, or TPUStrategy."
        )
    for what, model in models.items():
        for made in {id(found): found for found in map(_strategy_of, model.weights)}.values():
            if made is not strategy and not (made is None and replicas.num_replicas() == 1):
                raise ValueError(
                    f"The {what} was made under {_kind(made)}, the distiller under {_kind(strategy)}. "
                    "Make or load both within `with strategy.scope():` of one and the same strategy."
                )


def check_step(optimizer, jit_compile="auto", steps_per_execution=1, **options):
    """Refuses what of `compile` does not work on several replicas. Asked within the strategy's scope.

    Args:
        optimizer: As given to `compile`.
        jit_compile: Likewise.
        steps_per_execution: Likewise.
        **options: Others, not looked at.

    Raises:
        ValueError: Naming the option, and what to do.
    """
    strategy = tf.distribute.get_strategy()
    if replicas.num_replicas() == 1:
        return
    if jit_compile is True:
        raise ValueError(
            f"`jit_compile=True` cannot compile what {_kind(strategy)} does between replicas. Leave it 'auto'; "
            "a TPU compiles its steps anyway."
        )
    if (
        steps_per_execution != 1
        and not isinstance(strategy, tf.distribute.TPUStrategy)
        and not isinstance(strategy.extended._cross_device_ops, _IN_LOOPS)
    ):
        raise ValueError(
            f"`steps_per_execution={steps_per_execution}` fails with TensorFlow's collective operations, by which "
            f"{_kind(strategy)} adds up gradients. Leave it 1, or on one machine make the strategy with "
            "`cross_device_ops=tf.distribute.HierarchicalCopyAllReduce()`."
        )
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        return
    inner = replicas.innermost_optimizer(optimizer)
    if _strategy_of(inner.variables[0]) is not strategy:
        raise ValueError(
            f"The optimizer '{inner.name}' was made outside of the strategy's scope. Make it within "
            "`with strategy.scope():`, or pass its name."
        )
    if inner.ema_overwrite_frequency:
        raise ValueError(
            "`ema_overwrite_frequency` does not work on several replicas. Use the callback "
            "keras.callbacks.SwapEMAWeights."
        )
    if inner.gradient_accumulation_steps and (inner is not optimizer or inner.use_ema):
        other = "`use_ema`" if inner is optimizer else "a LossScaleOptimizer"
        raise ValueError(f"`gradient_accumulation_steps` does not work together with {other} on several replicas.")


def check_batch_size(strategy, batch):
    """Refuses training batches too small for the strategy.

    Args:
        strategy: A `tf.distribute.Strategy`.
        batch: The first one, as dealt out to the replicas.

    Raises:
        ValueError: With both numbers.
    """
    tensors = keras.tree.flatten(batch)
    shares = [int(tf.shape(share)[0]) for share in strategy.experimental_local_results(tensors[0])]
    if sum(shares) < len(shares):
        raise ValueError(
            f"The first batch holds {sum(shares)} examples for the {len(shares)} replicas of this machine. Pass "
            "batches of at least as many examples as there are replicas; `batch_size` counts those of all replicas."
        )


def check_masks(terms, inputs, students):
    """Refuses a term, or a metric, whose `mask` is no input, or does not fit what it compares.

    Args:
        terms: List of `Term` or `DistillationMetric`.
        inputs: Structure of `tf.TensorSpec`.
        students: `{tap: Spec}`.

    Raises:
        ValueError: Naming the inputs, or both shapes.
    """
    for term in terms:
        if term.mask is None:
            continue
        kind = "term" if isinstance(term, Term) else "metric"
        if not isinstance(inputs, dict) or term.mask not in inputs:
            there = list(inputs) if isinstance(inputs, dict) else "a single tensor or a list, which have no names"
            raise ValueError(
                f"{kind.capitalize()} '{term.name}' looks for its mask in the input '{term.mask}'. Inputs: {there}."
            )
        tap, mask = tap_names(term.student)[0], inputs[term.mask]
        if len(mask.shape) < 2 or not mask_fits(mask, students[tap]):
            raise ValueError(
                f"The mask '{term.mask}' of {kind} '{term.name}' has shape {tuple(mask.shape)}, which does not fit "
                f"student '{tap}' of shape {students[tap].shape}: its axes must be the first ones of that."
            )


def check_balances(terms, loss):
    """Refuses terms balanced with a supervised loss where there is none."""
    balanced = [term.name for term in terms if term.balanced]
    if balanced and loss is None:
        raise ValueError(
            f"The weights of the terms {balanced} are balanced with the supervised loss, but `compile` got none. "
            "Pass `loss=`, or give the terms numbers as weights."
        )


def warn_if_logits_taken_for_probabilities(loss, output):
    """Warns of a cross-entropy that takes logits for probabilities, as Keras' do unless told otherwise."""
    name = loss if isinstance(loss, str) else type(loss).__name__
    by_name = loss in ("sparse_categorical_crossentropy", "categorical_crossentropy", "binary_crossentropy")
    if not (by_name or isinstance(loss, _CROSSENTROPIES) and not loss.from_logits):
        return
    if isinstance(output, Spec) and not output.probabilities:
        warnings.warn(
            f"The loss '{name}' takes the student's output for probabilities, but it ends in no softmax or sigmoid. "
            "If it gives logits, pass the loss as an object with from_logits=True.",
            stacklevel=4,
        )


def _shared(model, other):
    own = {id(weight) for weight in model.weights}
    return [weight.path for weight in other.weights if id(weight) in own]


def _broken(model):
    return [weight.path for weight in model.weights if not _finite(weight)]


def _finite(weight):
    return not keras.backend.is_float_dtype(weight.dtype) or bool(tf.reduce_all(tf.math.is_finite(weight)))


def _strategy_of(variable):
    """The strategy of several replicas under which a `keras.Variable` was made, or None."""
    return getattr(variable.value, "distribute_strategy", None)


def _kind(strategy):
    if strategy is None or strategy.num_replicas_in_sync == 1:
        return "no strategy of several replicas"
    return f"{type(strategy).__name__} of {strategy.num_replicas_in_sync} replicas"


def _some(names):
    return names if len(names) <= 3 else [*names[:3], f"and {len(names) - 3} more"]
