"""MutualDistiller: trains peers on labels and on one another's predictions (deep mutual learning)."""

import dataclasses

import keras

from keras_distill.data.batch import Batch, split_inputs
from keras_distill.losses import DistillationLoss, KLDivergence
from keras_distill.models.softmax import logits_of
from keras_distill.models.specs import Traced, input_specs, own_inputs, symbolic, trace
from keras_distill.models.taps import OUTPUT, Taps
from keras_distill.schedules import check_positive
from keras_distill.training.base import BaseDistiller
from keras_distill.training.compiled_losses import CompiledLosses, copied_metrics, supervised_losses
from keras_distill.training.loss_weight import WeightedLoss, as_weight
from keras_distill.training.positions import for_tap
from keras_distill.training.reductions import local_mean, mean_over_examples
from keras_distill.training.teacher_metrics import split_metrics
from keras_distill.training.term import Term
from keras_distill.training.total_loss import TotalLoss
from keras_distill.training.validation import (
    check_log_names,
    check_masks,
    check_peers,
    check_predictions,
    warn_if_logits_taken_for_probabilities,
)
from keras_distill.types import ScheduleLike, Structure


@keras.saving.register_keras_serializable("keras_distill")
class MutualDistiller(BaseDistiller):
    """Train two or more models, each on the labels and on the predictions of the others (deep mutual learning, DML).

    ```
    loss = sum_i L_i
    L_i  = supervised_weight * (loss given to compile) + weight * M_i + regularizers of peer i
    M_i  = 1/(n - 1) * sum_(j != i) KL(softmax(z_j) || softmax(z_i))      by default
    ```

    All peers are updated at once, from the same predictions, by the optimizer given to `compile`; in the paper's
    algorithm they are updated in turn, and each sees the predictions of the others after their updates. The predictions
    of a peer pass no gradient back when they serve as targets, so that each peer minimizes `L_i` alone. Optimizers keep
    separate statistics for each weight, as if every peer had its own optimizer; only `global_clipnorm` and loss scaling
    depend on all peers together.

    Each peer runs once per step, in training mode, also where its predictions are targets. Sample weights, missing
    labels, masks and precision follow the same rules as in `Distiller`; without labels the peers train on one another
    alone. The logs hold `loss` and, for each peer, `<peer>_loss`, the unweighted `<peer>_supervised_loss` and
    `<peer>_mutual_loss`, and the metrics given to `compile`, such as `<peer>_accuracy`. `predict` and a call return
    `{peer: prediction}`; `teachers.Ensemble` combines the peers into one teacher. `save` and
    `keras.saving.load_model` keep the whole state, so that `fit` resumes exactly.

    Args:
        peers: `{name: model}`, or a list of models, which are then named "peer_0", "peer_1" and so on.
        loss: Loss of logits that compares one peer, as the student, with another. Defaults to `KLDivergence(1.0)`.
        weight: Weight of the mean over the other peers, a number > 0 or a schedule. Defaults to 1.
        supervised_weight: Weight of the supervised loss, a number >= 0 or a schedule. Defaults to 1.
        logits: Tap of each peer's logits, as `models.Taps` reads it. Defaults to "output".
        mask: Name of an input that marks padding; see `Term`. Defaults to None.
        inputs: Example batch, `keras.Input` or `tf.TensorSpec`; see `Distiller`. Defaults to the inputs of the peers.
        name: Name of the model. Defaults to "mutual_distiller".

    Raises:
        ValueError: For fewer than two peers; names that make the logs ambiguous; peers that share weights, hold NaN or
            have different classes; and a loss that does not compare logits.

    Example:
    >>> small = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
    >>> wide = keras.Sequential([keras.Input((8,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(3)])
    >>> distiller = MutualDistiller({"small": small, "wide": wide})
    >>> distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    >>> history = distiller.fit(np.ones((32, 8)), y, verbose=0)
    >>> distiller.peers["small"].save("small.keras")

    Reference:
        Zhang et al., CVPR 2018, https://arxiv.org/abs/1706.00384
    """

    def __init__(
        self,
        peers: dict[str, keras.Model] | list[keras.Model],
        loss: DistillationLoss | None = None,
        weight: ScheduleLike = 1.0,
        supervised_weight: ScheduleLike = 1.0,
        logits: str = OUTPUT,
        mask: str | None = None,
        inputs: Structure = None,
        name: str | None = None,
    ):
        if isinstance(peers, (list, tuple)):
            peers = {f"peer_{index}": peer for index, peer in enumerate(peers)}
        check_peers(peers)
        super().__init__(name=name, dtype=_dtype_policy(peers.values()))
        self.peers = dict(peers)
        self.mutual_weight = check_positive(weight, "weight")
        self.supervised_weight = check_positive(supervised_weight, "supervised_weight", zero=True)
        self._template = _term(loss, logits, mask)
        self._taps = {peer: Taps(model, dict.fromkeys([OUTPUT, logits])) for peer, model in peers.items()}
        inputs = input_specs(inputs, *peers.values())
        specs = trace(lambda x: self._activations(x, training=False), inputs)
        # Checked again: tracing may have created the weights of a model that was not built.
        check_peers(peers)
        check_predictions({peer: specs[f"{peer}/{logits}"] for peer in peers}, logits)
        self._traced = Traced(inputs, student=specs, teacher=specs)
        self.terms = tuple(self._built_term(peer, other, specs) for peer in peers for other in peers if other != peer)
        check_masks(self.terms, inputs, specs)
        self.term_losses = [term.loss for term in self.terms]
        self._total_loss = TotalLoss(self._loss_parts(), {f"{peer}_loss": model for peer, model in peers.items()})
        self._compiled_losses = {peer: CompiledLosses(model) for peer, model in peers.items()}
        self.built = True

    def call(self, inputs, training=None):
        inputs = split_inputs(inputs)[0]
        return {peer: model(own_inputs(model, inputs), training=training) for peer, model in self.peers.items()}

    def teacher_activations(self, batch: Batch) -> dict:
        # The targets of each peer are the predictions of the others.
        return {}

    def student_activations(self, batch: Batch, training: bool) -> dict:
        return self._activations(batch.inputs, training)

    def student_outputs(self, student: dict) -> dict:
        return {peer: student[f"{peer}/{OUTPUT}"] for peer in self.peers}

    @property
    def outputs(self) -> dict[str, keras.Model]:
        return {f"{peer}/{OUTPUT}": model for peer, model in self.peers.items()}

    def compared_activations(self, term: Term, student: dict, teacher: dict) -> tuple[Structure, Structure]:
        specs = self._traced.student
        return logits_of(student[term.student], specs[term.student]), logits_of(
            student[term.teacher], specs[term.teacher]
        )

    def losses_of(self, batch: Batch, student: dict, teacher: dict, training: bool) -> dict:
        compared = {peer: [] for peer in self.peers}
        for term in self.terms if teacher is not None else ():
            peer = term.student.partition("/")[0]
            weighted = for_tap(batch, term.student, self._traced.student, output=f"{peer}/{OUTPUT}")
            values = term.compare(*self.compared_activations(term, student, teacher), weighted, training)
            compared[peer].append(mean_over_examples(values))
        losses = {}
        for peer, outputs in self.student_outputs(student).items():
            supervised = self._compiled_losses[peer].loss(
                batch.inputs, batch.labels, outputs, batch.sample_weight, training
            )
            losses[f"{peer}_supervised_loss"] = local_mean(supervised, batch)
            if compared[peer]:
                losses[f"{peer}_mutual_loss"] = sum(compared[peer]) / len(compared[peer])
        return losses

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Return the sum of the peers' supervised losses, or None; see `keras.Model.compute_loss`."""
        losses = [
            compiled.loss(x, y, y_pred[peer], sample_weight, training)
            for peer, compiled in self._compiled_losses.items()
        ]
        return None if losses[0] is None else sum(losses)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Update and return the metrics of each peer, missing labels left out; see `keras.Model.compute_metrics`."""
        logs = {}
        for peer, compiled in self._compiled_losses.items():
            own = compiled.update_metrics(x, y, y_pred[peer], sample_weight)
            logs |= {f"{peer}_{name}": value for name, value in own.items()}
        return self.get_metrics_result() | logs

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        peers = [metric for compiled in self._compiled_losses.values() for metric in compiled.metrics]
        return [*self._loss_trackers(), *peers]

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {
            "name": self.name,
            "peers": {peer: serialize(model) for peer, model in self.peers.items()},
            "loss": serialize(self._template.loss),
            "weight": serialize(self.mutual_weight),
            "supervised_weight": serialize(self.supervised_weight),
            "logits": self._template.student,
            "mask": self._template.mask,
            "inputs": serialize(keras.tree.map_structure(symbolic, self._traced.inputs)),
        }

    @classmethod
    def from_config(cls, config):
        return cls(**keras.saving.deserialize_keras_object(config))

    def _loss_parts(self):
        parts = {}
        for peer in self.peers:
            total, supervised, mutual = (f"{peer}_{kind}" for kind in ("loss", "supervised_loss", "mutual_loss"))
            title = f"the supervised loss of '{peer}'"
            parts[supervised] = WeightedLoss(title, as_weight(self.supervised_weight), total, supervised)
            title = f"the mutual loss of '{peer}'"
            parts[mutual] = WeightedLoss(title, as_weight(self.mutual_weight), total, supervised)
        names = ["loss", *parts, *(f"{peer}_loss" for peer in self.peers)]
        if len(set(names)) < 1 + 3 * len(self.peers):
            raise ValueError(
                f"The names of the peers {list(self.peers)} make the names of the logs ambiguous. Use other names."
            )
        return parts

    def _compile_losses(self, loss, loss_weights, metrics, weighted_metrics):
        of_teacher = [metric.name for given in (metrics, weighted_metrics) for metric in split_metrics(given)[1]]
        if of_teacher:
            raise ValueError(
                f"The metrics {of_teacher} compare a student with its teacher, which peers do not have. Remove them, "
                "or update them with the predictions of two peers in a callback."
            )
        for tap in self.outputs:
            warn_if_logits_taken_for_probabilities(loss, self._traced.student[tap])
        compiled = {
            peer: supervised_losses(
                model,
                loss=loss,
                loss_weights=loss_weights,
                metrics=copied_metrics(metrics),
                weighted_metrics=copied_metrics(weighted_metrics),
            )
            for peer, model in self.peers.items()
        }
        names = [f"{peer}_{name}" for peer, losses in compiled.items() for name in losses.output_loss_names]
        check_log_names(self._total_loss.trackers, names)
        self._compiled_losses = compiled

    def _results(self):
        results = {tracker.name: tracker.result() for tracker in self._loss_trackers()}
        for peer, compiled in self._compiled_losses.items():
            results |= {f"{peer}_{name}": value for name, value in compiled.results().items()}
        return results

    def _losses_without_metrics(self):
        return {peer: compiled.without_metrics() for peer, compiled in self._compiled_losses.items()}

    def _losses_by_total(self):
        return {f"{peer}_loss": compiled for peer, compiled in self._compiled_losses.items()}

    def _activations(self, inputs, training):
        """Return `{"peer/tap": activation}` of all peers."""
        activations = {peer: taps(inputs, training=training) for peer, taps in self._taps.items()}
        return {f"{peer}/{tap}": value for peer, taps in activations.items() for tap, value in taps.items()}

    def _built_term(self, peer, other, specs):
        student, teacher = f"{peer}/{self._template.student}", f"{other}/{self._template.student}"
        term = dataclasses.replace(self._template, student=student, teacher=teacher, name=f"{peer}_from_{other}")
        return term.build(specs[student], specs[teacher])


def _term(loss, logits, mask):
    loss = KLDivergence(1.0) if loss is None else loss
    if not (isinstance(loss, DistillationLoss) and loss.logits):
        raise ValueError(
            f"`loss` must be a loss of logits from keras_distill.losses, such as KLDivergence(1.0). Received: {loss!r}"
        )
    return Term(loss, logits, logits, name="mutual", mask=mask)


def _dtype_policy(peers):
    """Return the dtype policy that Keras looks at: a peer in float16 makes it scale the loss."""
    policies = [peer.dtype_policy for peer in peers]
    return next((policy for policy in policies if policy.name == "mixed_float16"), policies[0])
