"""Peers that teach one another (deep mutual learning, DML)."""

import keras
import tensorflow as tf

from keras_distill.data.batch import split_inputs, unpack
from keras_distill.losses import DistillationLoss, KLDivergence
from keras_distill.models.specs import Traced, input_specs, symbolic, trace
from keras_distill.models.taps import OUTPUT, Taps
from keras_distill.schedules import check_positive, value_at
from keras_distill.training.base import (
    BaseDistiller,
    local_mean,
    mean_over_examples,
    regularization_losses,
    replica_fraction,
)
from keras_distill.training.compiled_losses import CompiledLosses
from keras_distill.training.teacher_metrics import split_metrics
from keras_distill.training.term import Term
from keras_distill.training.validation import (
    check_masks,
    check_peers,
    check_predictions,
    warn_if_logits_taken_for_probabilities,
)


@keras.saving.register_keras_serializable("keras_distill")
class MutualDistiller(BaseDistiller):
    """Trains two models or more, each on the labels and on what the others predict.

    ```
    loss = sum_i L_i
    L_i  = supervised_weight * (the loss given to compile) + weight * M_i + the regularisers of peer i
    M_i  = 1/(n - 1) * sum_(j != i) KL(softmax(z_j) || softmax(z_i))      unless another loss is given
    ```

    ```python
    distiller = MutualDistiller({"small": small, "wide": wide})
    distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    distiller.fit(x, y, validation_data=(x_test, y_test), epochs=10)
    distiller.peers["small"].save("small.keras")  # holds no trace of the others
    ```

    All peers make their step at once, from the same predictions, with the optimizer given to `compile`; in the paper's
    algorithm they take turns, and each sees what the others predict after their own steps. What a peer predicts teaches
    the others without passing a gradient back, so that it learns from `L_i` alone. Optimizers keep to each weight by
    itself, as if every peer had one of its own; only `global_clipnorm` and loss scaling look at all of them together.

    Each peer runs once a step, in training mode, and so with dropout while it teaches. Sample weights, missing labels,
    masks and precision are dealt with as by `Distiller`; without labels the peers learn from one another alone. The
    logs hold `loss` and, for each peer, `<peer>_loss`, `<peer>_supervised_loss`, `<peer>_mutual_loss` (the last two
    before their weights) and the metrics given to `compile`, as `<peer>_accuracy`. `predict` and a call return what
    each peer says, `{peer: prediction}`; `Ensemble` makes one of them. `save` and `keras.saving.load_model` keep all,
    so that `fit` goes on as if it had never stopped.

    Args:
        peers: `{name: model}`, or a list of models, which are then called "peer_0", "peer_1" and so on.
        loss: A loss of logits that compares one peer, as the student, with another. Defaults to `KLDivergence(1.0)`.
        weight: What the mean over the other peers is multiplied with, a number above 0 or a schedule. Defaults to 1.
        supervised_weight: A number or a schedule. Defaults to 1.
        logits: Where the logits of each peer are, as `Taps` reads it. Defaults to "output".
        mask: As for `Term`.
        inputs: As for `Distiller`.

    Raises:
        ValueError: For less than two peers, names of which the logs could not be told apart, peers that share weights,
            hold NaN, end in a softmax or have different classes, and a loss that compares no logits.

    Reference:
        Zhang et al., CVPR 2018, https://arxiv.org/abs/1706.00384
    """

    def __init__(
        self, peers, loss=None, weight=1.0, supervised_weight=1.0, logits=OUTPUT, mask=None, inputs=None, name=None
    ):
        if isinstance(peers, (list, tuple)):
            peers = {f"peer_{index}": peer for index, peer in enumerate(peers)}
        check_peers(peers)
        super().__init__(name=name, dtype=_policy(peers.values()))
        self.peers = dict(peers)
        self.mutual_weight = check_positive(weight, "weight")
        self.supervised_weight = check_positive(supervised_weight, "supervised_weight", zero=True)
        self._template = _term(loss, logits, mask)
        self._taps = {peer: Taps(model, dict.fromkeys([OUTPUT, logits])) for peer, model in peers.items()}
        specs = input_specs(inputs, *peers.values())
        traced = {peer: trace(lambda x, taps=taps: taps(x, training=False), specs) for peer, taps in self._taps.items()}
        # Once more: a model that was not built had no weights to share before it was traced.
        check_peers(peers)
        check_predictions({peer: found[logits] for peer, found in traced.items()}, logits)
        self._traced = Traced(specs, student=traced, teacher=traced)
        self._terms = {
            peer: {
                other: self._template.build(traced[peer][logits], traced[other][logits])
                for other in peers
                if other != peer
            }
            for peer in peers
        }
        for peer, terms in self._terms.items():
            check_masks(terms.values(), specs, traced[peer])
        self.term_losses = [term.loss for terms in self._terms.values() for term in terms.values()]
        kinds = "loss", "supervised_loss", "mutual_loss"
        names = ["loss", *(f"{peer}_{kind}" for peer in peers for kind in kinds)]
        if len(set(names)) < len(names):
            raise ValueError(f"The logs of the peers {list(peers)} could not be told apart. Give them other names.")
        self._follow(names, of_labels=[f"{peer}_supervised_loss" for peer in peers])
        self._supervisions = CompiledLosses.several(dict.fromkeys(peers))
        self.built = True

    def _supervise(self, loss, loss_weights, metrics, weighted_metrics):
        comparing = [metric.name for given in (metrics, weighted_metrics) for metric in split_metrics(given)[1]]
        if comparing:
            raise ValueError(
                f"The metrics {comparing} compare a student with its teacher, and peers have none. Leave them out, or "
                "update them with two peers' predictions yourself."
            )
        for found in self._traced.student.values():
            warn_if_logits_taken_for_probabilities(loss, found[OUTPUT])
        outputs = {peer: getattr(model, "output_names", None) for peer, model in self.peers.items()}
        self._supervisions = CompiledLosses.several(outputs, loss, loss_weights, metrics, weighted_metrics)

    def call(self, inputs, training=None):
        inputs = split_inputs(inputs)[0]
        return {peer: model(inputs, training=training) for peer, model in self.peers.items()}

    def train_step(self, data):
        batch = unpack(data, self.optimizer.iterations)
        with tf.GradientTape() as tape:
            found = {peer: taps(batch.inputs, training=True) for peer, taps in self._taps.items()}
            losses = self._measure(batch, found, training=True)
            scaled = self.optimizer.scale_loss(losses["loss"] * replica_fraction(batch))
        self._update(tape.gradient(scaled, self.trainable_variables))
        return self._logs(batch, found, losses)

    def test_step(self, data):
        batch = unpack(data, self.optimizer.iterations)
        found = {peer: taps(batch.inputs, training=False) for peer, taps in self._taps.items()}
        return self._logs(batch, found, self._measure(batch, found, training=False))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The sum of the peers' supervised losses, or None; see `keras.Model.compute_loss`."""
        losses = [each.loss(y, y_pred[peer], sample_weight) for peer, each in self._supervisions.items()]
        return None if losses[0] is None else sum(losses)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """As `keras.Model.compute_metrics`, for each peer, missing labels left out."""
        for peer, supervision in self._supervisions.items():
            supervision.update_metrics(y, y_pred[peer], sample_weight)
        return self.get_metrics_result()

    def _results(self):
        results = {tracker.name: tracker.result() for tracker in self._shown()}
        for peer, supervision in self._supervisions.items():
            results |= {f"{peer}_{name}": value for name, value in supervision.results().items()}
        return results

    @property
    def metrics(self):
        return [*self._shown(), *(metric for each in self._supervisions.values() for metric in each.metrics)]

    def get_config(self):
        written = keras.saving.serialize_keras_object
        return {
            "name": self.name,
            "peers": {peer: written(model) for peer, model in self.peers.items()},
            "loss": written(self._template.loss),
            "weight": written(self.mutual_weight),
            "supervised_weight": written(self.supervised_weight),
            "logits": self._template.student,
            "mask": self._template.mask,
            "inputs": written(keras.tree.map_structure(symbolic, self._traced.inputs)),
        }

    @classmethod
    def from_config(cls, config):
        return cls(**keras.saving.deserialize_keras_object(config))

    def _measure(self, batch, found, training):
        """What the trackers follow, by name: this replica's mean losses."""
        weights = [value_at(weight, batch.step) for weight in (self.supervised_weight, self.mutual_weight)]
        added = {peer: regularization_losses([model]) for peer, model in self.peers.items()}
        total, losses = 0.0, {}
        for peer, terms in self._terms.items():
            outputs, logits = found[peer][OUTPUT], found[peer][self._template.student]
            supervised = local_mean(self._supervisions[peer].loss(batch.labels, outputs, batch.sample_weight), batch)
            compared = [
                term.compare(logits, found[other][self._template.student], batch, training)
                for other, term in terms.items()
            ]
            mutual = sum(mean_over_examples(values) for values in compared) / len(compared)
            own = weights[0] * supervised + weights[1] * mutual + added[peer]
            losses |= {f"{peer}_loss": own, f"{peer}_supervised_loss": supervised, f"{peer}_mutual_loss": mutual}
            total += own
        return {"loss": total, **losses}

    def _logs(self, batch, found, losses):
        self._track(losses, batch)
        outputs = {peer: activations[OUTPUT] for peer, activations in found.items()}
        return self._reported(self.compute_metrics(batch.inputs, batch.labels, outputs, batch.sample_weight))


def _term(loss, logits, mask):
    loss = KLDivergence(1.0) if loss is None else loss
    if not (isinstance(loss, DistillationLoss) and loss.logits):
        raise ValueError(
            "Peers are compared by a loss of logits of keras_distill.losses, such as KLDivergence(1.0). "
            f"Received: {loss!r}"
        )
    return Term(loss, logits, logits, name="mutual", mask=mask)


def _policy(peers):
    """The precision of which Keras is to know: a peer in float16 makes it scale the loss."""
    policies = [peer.dtype_policy for peer in peers]
    return next((policy for policy in policies if policy.name == "mixed_float16"), policies[0])
