"""Training and evaluation steps that all distillers share."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_distill import _compat
from keras_distill.data.batch import Batch, unpack
from keras_distill.distribution import replicas, workers
from keras_distill.models.specs import Traced
from keras_distill.training.building import build_metrics, build_on_replicas
from keras_distill.training.fitting import check_evaluation, evaluates_terms, fit_arguments
from keras_distill.training.loss_weight import WeightedLoss
from keras_distill.training.reductions import multiply, replica_fraction
from keras_distill.training.strategy_checks import check_accumulation, check_step, check_trainable
from keras_distill.training.validation import check_keywords
from keras_distill.types import Structure, Tensor


class BaseDistiller(_compat.StrategyBuild, keras.Model):
    """Model that trains other models by a weighted sum of losses. Base class.

    `train_step` and `test_step` are implemented here, once for all distillers. A subclass overrides hooks:

    ```
    prepare_batch(batch)                              replace inputs, labels or weights before the models run
    training_batch(batch)                             the same, in training steps only
    teacher_activations(batch)                        outside the gradient tape
    student_activations(batch, training)              inside the gradient tape
    losses_of(batch, student, teacher, training)      {log name: unweighted mean loss}
    after_update(batch)                               after the optimizer's update
    ```

    A subclass that is not one of `Distiller` or `MutualDistiller` also sets `_total_loss` when it is constructed
    and implements `student_outputs`, `outputs`, `compared_activations`, `_compile_losses`, `_losses_without_metrics`,
    `_losses_by_total` and `_results`.

    Attributes:
        terms: Each `Term`, built. Its taps are keys of the activations that the hooks return.
        teacher: The `Teacher`, or None.
        rollouts: `Rollouts`, or None.
        outputs: `{tap: model}` of the outputs that labels are compared with.
        parts: `{log name: WeightedLoss}` of the parts of the total loss.
        evaluate_terms: Whether validation computes the terms.
        left_out: Log names that the last validation left out.
    """

    terms = ()
    teacher = None
    rollouts = None
    _traced = None
    evaluate_terms = True
    left_out = frozenset()
    # Ids of the weights that the optimizer was built with.
    _optimized = frozenset()
    _metrics_built = False
    # True from the start of `fit` until its first batch has been checked.
    _starts_training = False

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        evaluate_terms: bool = True,
        **kwargs: Any,
    ) -> None:
        """Configure training, as `keras.Model.compile` does.

        On several replicas, `BatchNormalization` layers are set to `synchronized=True`.

        Args:
            optimizer: Optimizer or its name. Defaults to "rmsprop".
            loss: Supervised loss, in any form that `keras.Model.compile` takes. None to train without labels.
            loss_weights: Weights of the losses of several outputs.
            metrics: Metrics of the student; each `DistillationMetric` compares it with the teacher.
            weighted_metrics: Metrics that sample weights apply to.
            evaluate_terms: Whether validation computes the terms, for which the teacher runs, too. They are left out,
                with a warning, where a `CachedTeacher` finds no activations with the inputs. Defaults to True.
            **kwargs: Other arguments of `keras.Model.compile`, such as `jit_compile` or `steps_per_execution`.

        Raises:
            ValueError: For a loss that does not fit the models, and for options that the strategy does not support.
        """
        check_keywords(kwargs)
        strategy = _compat.distribute_strategy(self)
        # Variables that are created here belong to the strategy under which the models were made.
        with contextlib.nullcontext() if strategy is None else strategy.scope():
            check_step(optimizer, **kwargs)
            self._compile_losses(loss, loss_weights, metrics, weighted_metrics)
            super().compile(optimizer, loss, loss_weights, metrics, weighted_metrics, **kwargs)
            self.evaluate_terms, self.left_out, self._metrics_built = evaluate_terms, frozenset(), False
            if loss is None:
                # Keras keeps the loss of an earlier call.
                self.loss = None
            # Built here, so that all weights, the optimizer's included, can be loaded before the first step.
            self.optimizer.build(self.trainable_variables)
            check_accumulation(self.terms, self.optimizer)
            self._optimized = frozenset(id(variable) for variable in self.trainable_variables)
            if replicas.num_replicas() > 1:
                for layer in _compat.flatten_layers(self):
                    if isinstance(layer, keras.layers.BatchNormalization):
                        layer.synchronized = True

    @functools.wraps(keras.Model.fit)
    def fit(self, *args, **kwargs):
        self._starts_training = True
        return keras.Model.fit(**fit_arguments(self, *args, **kwargs))

    @functools.wraps(keras.Model.evaluate)
    def evaluate(self, *args, **kwargs):
        check_evaluation(self, *args, **kwargs)
        return super().evaluate(*args, **kwargs)

    def prepare_batch(self, batch: Batch) -> Batch:
        """Return the batch that the models are given. Hook; returns it unchanged by default."""
        return batch

    def training_batch(self, batch: Batch) -> Batch:
        """Return the batch of a training step, from the result of `prepare_batch`. Hook; unchanged by default."""
        return batch

    def teacher_activations(self, batch: Batch) -> dict[str, Structure]:
        """Return `{tap: activation}` of the teacher, computed outside the gradient tape. Hook."""
        raise NotImplementedError

    def student_activations(self, batch: Batch, training: bool) -> dict[str, Structure]:
        """Return `{tap: activation}` of the student, computed inside the gradient tape. Hook."""
        raise NotImplementedError

    def losses_of(self, batch: Batch, student: dict, teacher: dict, training: bool) -> dict[str, Tensor]:
        """Return `{log name: loss}` of all parts of the total loss. Hook.

        Args:
            batch: The `Batch`.
            student: Result of `student_activations`.
            teacher: Result of `teacher_activations`; None in a validation without terms.
            training: Whether losses with state are updated.

        Returns:
            float32 scalars: means over this replica's examples, before any weight. Without a teacher, supervised losses
            alone.
        """
        raise NotImplementedError

    def after_update(self, batch: Batch) -> None:
        """Run after the optimizer's update of a training step. Hook; does nothing by default."""

    def student_outputs(self, student: dict) -> Structure:
        """Return what labels and metrics are compared with, from the result of `student_activations`."""
        raise NotImplementedError

    def compared_activations(self, term: Any, student: dict, teacher: dict) -> tuple[Structure, Structure]:
        """Return the activations of student and teacher that a term or a metric compares.

        Args:
            term: `Term` or `DistillationMetric`.
            student: Result of `student_activations`.
            teacher: Result of `teacher_activations`.
        """
        raise NotImplementedError

    @contextlib.contextmanager
    def untracked(self) -> Iterator[None]:
        """Compute `losses_of` without updating metrics, inside the context."""
        compiled, self._compiled_losses = self._compiled_losses, self._losses_without_metrics()
        try:
            yield
        finally:
            self._compiled_losses = compiled

    @property
    def outputs(self) -> dict[str, keras.Model]:
        """`{tap: model}` of the outputs that labels are compared with."""
        raise NotImplementedError

    @property
    def supervised(self) -> bool:
        """True if there is a supervised loss: `compile` got one, or a student computes its own."""
        return any(losses.supervised for losses in self._losses_by_total().values())

    @property
    def specs(self) -> Traced:
        """Inputs and activations of the models, as `Traced`."""
        return self._traced

    @property
    def parts(self) -> dict[str, WeightedLoss]:
        """`{log name: WeightedLoss}` of the parts of the total loss."""
        return dict(self._total_loss.parts)

    def train_step(self, data):
        check_trainable(self.trainable_variables, self._optimized)
        batch = self.training_batch(self.prepare_batch(unpack(data, self.optimizer.iterations)))
        teacher = self.teacher_activations(batch)
        with tf.GradientTape() as tape:
            student = self.student_activations(batch, training=True)
            losses = self._total_losses(batch, student, teacher, training=True)
            scaled = self.optimizer.scale_loss(multiply(replica_fraction(batch), losses["loss"]))
        gradients = tape.gradient(scaled, self.trainable_variables)
        replicas.apply_gradients(self.optimizer, gradients, self.trainable_variables)
        self.after_update(batch)
        return self._logs(batch, student, teacher, losses)

    def test_step(self, data):
        batch = self.prepare_batch(unpack(data, self.optimizer.iterations))
        student = self.student_activations(batch, training=False)
        teacher = self.teacher_activations(batch) if evaluates_terms(self, batch) else None
        losses = self._total_losses(batch, student, teacher, training=False)
        return self._logs(batch, student, teacher, losses)

    def get_metrics_result(self) -> dict[str, Any]:
        """Return `{name: value}` of losses and metrics; Python numbers outside of a graph."""
        return {
            name: value if tf.is_symbolic_tensor(value) or len(ops.shape(value)) else float(value)
            for name, value in self._results().items()
        }

    def get_compile_config(self) -> dict[str, Any] | None:
        return {**super().get_compile_config(), "evaluate_terms": self.evaluate_terms} if self.compiled else None

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))

    def save_own_variables(self, store):
        for name, variable in self.untracked_variables().items():
            store[name] = variable

    def load_own_variables(self, store):
        for name, variable in self.untracked_variables().items():
            variable.assign(store[name])

    def untracked_variables(self) -> dict[str, Any]:
        """Return variables that Keras does not save (seed generator states), by name.

        Without them, dropout would not continue with the same random numbers after a resume.
        """
        weights = {id(weight) for weight in self.weights}
        states = [variable for variable in self.variables if id(variable) not in weights]
        return {f"random_state_{index}": state for index, state in enumerate(states)}

    def _compile_losses(self, loss, loss_weights, metrics, weighted_metrics):
        """Check what `compile` got against the models, and keep it as `CompiledLosses`."""
        raise NotImplementedError

    def _losses_without_metrics(self):
        """Return the compiled losses without metrics and trackers."""
        raise NotImplementedError

    def _losses_by_total(self):
        """Return `{log name of a sum: CompiledLosses or TaskLoss}`."""
        raise NotImplementedError

    def _results(self):
        """Return `{name: tensor}` of everything that is logged."""
        raise NotImplementedError

    def _total_losses(self, batch, student, teacher, training):
        """Return this replica's means, by log name."""
        regularization = self._total_loss.regularization(self._losses_by_total())
        losses = self.losses_of(batch, student, teacher, training)
        return self._total_loss.values(losses, regularization, batch, training)

    def _logs(self, batch, student, teacher, losses):
        self._total_loss.track(losses, batch)
        if teacher is not None:
            self._update_teacher_metrics(batch, student, teacher)
        logs = self.compute_metrics(batch.inputs, batch.labels, self.student_outputs(student), batch.sample_weight)
        if teacher is None:
            self.left_out = self._names_of_terms() - set(losses)
            logs = {name: value for name, value in logs.items() if name not in self.left_out}
        if workers.num_workers(tf.distribute.get_strategy()) == 1:
            return logs
        # With several workers Keras takes the mean along an axis, which scalars do not have.
        return {name: ops.expand_dims(value, 0) for name, value in logs.items()}

    def _names_of_terms(self):
        """Return the log names of all that needs a teacher."""
        return self._total_loss.term_names

    def _update_teacher_metrics(self, batch, student, teacher):
        """Update the metrics that compare student and teacher. Does nothing by default."""

    def _loss_trackers(self):
        """Return the metrics of the losses; supervised losses only if `compile` got a loss."""
        hidden = () if self.supervised else self._total_loss.supervised_names
        return [tracker for name, tracker in self._total_loss.trackers.items() if name not in hidden]

    def build_before_first_step(self, iterator: Any = None, data_batch: Any = None) -> None:
        strategy = _compat.distribute_strategy(self)
        if strategy is not None:
            build_on_replicas(self, strategy, iterator, data_batch, self._starts_training)
            self._starts_training = False
        elif iterator is not None and not self._metrics_built:
            losses = dict(zip(self.outputs, self._losses_by_total().values()))
            self._metrics_built = build_metrics(self, losses, _compat.batch_spec(iterator))
