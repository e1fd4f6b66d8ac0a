"""Distiller: trains a student on labels and on the activations of a teacher."""

from typing import Any

import keras

from keras_distill.data.batch import Batch, split_inputs
from keras_distill.data.top_k import TopKLogits
from keras_distill.models.softmax import logits_of
from keras_distill.models.specs import Traced, input_specs, own_inputs, symbolic, trace
from keras_distill.models.taps import OUTPUT, Taps, select_activations, tap_names
from keras_distill.schedules import check_positive
from keras_distill.teachers import CachedTeacher, as_teacher
from keras_distill.teachers.cached import CachedActivations
from keras_distill.training.base import BaseDistiller
from keras_distill.training.compiled_losses import CompiledLosses, connect_layers, supervised_losses
from keras_distill.training.deserialization import teacher_to_load
from keras_distill.training.loss_weight import serialize_weight, weighted_losses
from keras_distill.training.positions import for_tap
from keras_distill.training.reductions import local_mean, mean_over_examples
from keras_distill.training.rollouts import check_rollout_labels, connect_rollouts
from keras_distill.training.task_loss import has_own_loss
from keras_distill.training.teacher_metrics import TeacherMetrics, check_teacher_metrics, split_metrics
from keras_distill.training.term_list import as_terms, layers_of
from keras_distill.training.term_shapes import description
from keras_distill.training.total_loss import TotalLoss
from keras_distill.training.validation import (
    check_arguments,
    check_log_names,
    check_masks,
    check_models,
    check_shared_weights,
    check_supervised_loss,
    warn_if_logits_taken_for_probabilities,
    warn_of_preprocessor,
)
from keras_distill.types import ScheduleLike, Structure


@keras.saving.register_keras_serializable("keras_distill")
class Distiller(BaseDistiller):
    """Train a student on a supervised loss and on terms that compare it with a teacher.

    ```
    L = supervised_weight * (loss given to compile) + sum_i weight_i * term_i + regularizers of the student
    ```

    `compile`, `fit`, `evaluate`, `predict` and callbacks are those of Keras and see the student. Each model runs once
    per step, the teacher in inference mode and outside the gradient tape. A term is the mean over the examples of a
    batch, of each example's loss times its sample weight, in float32. Labels may be missing, for some examples
    (`keras_distill.data.label_mask`) or for all, and `compile` may get no loss: training then uses the terms alone. The
    logs hold `loss`, `supervised_loss`, `<name>_loss` of each term before its weight, `<name>_weight` of weights with
    state such as `Balance`, and the metrics given to `compile`. Pass `mode="min"` to callbacks that monitor a loss
    other than `loss`.

    Models that end in a softmax are supported: terms compare the softmax's input, the supervised loss and the metrics
    of `compile` see the unchanged output. A student that overrides `compute_loss` or `compute_metrics` keeps them.

    Args:
        student: `keras.Model` to train, compiled or not.
        teacher: `keras.Model`, function of the inputs, or `Teacher`. It is neither trained, nor modified, nor saved.
            None, without terms, trains the baseline: the student without a teacher, in the same loop.
        terms: List of `Term`. Bare losses are wrapped in `Term(loss)`. Defaults to `[Term(KLDivergence())]` with a
            teacher and to `[]` without one.
        supervised_weight: Weight of the supervised loss, a number >= 0 or a schedule. 0.1 to 1 is typical beside a
            softened KL divergence; 0 trains on the teacher alone. Defaults to 1.
        inputs: Example batch, `keras.Input` or `tf.TensorSpec`, in the structure that the models are called with.
            Required if neither model is built. Defaults to the inputs of the student, or else of the teacher.
        rollouts: `keras_distill.language.Rollouts`, to train on texts that a model writes during training. Defaults to
            None: the given texts.
        name: Name of the distiller. Defaults to "distiller".

    Raises:
        TypeError: For positional arguments.
        ValueError: For a student that is not a `keras.Model`; a teacher that shares weights with the student or holds
            NaN; taps that match no layer; activations that a term cannot compare; terms with the same name; terms
            without a teacher; and models made under another `tf.distribute` strategy.

    Example:
    >>> terms = [
    ...     Term(KLDivergence(temperature=2.0), weight=0.9),
    ...     Term(Hint(), student="block_2", teacher="block_4", head="auto", weight=0.1),
    ... ]
    >>> distiller = Distiller(student=student, teacher=teacher, terms=terms, supervised_weight=0.1)
    >>> distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    >>> history = distiller.fit(x, y, epochs=1, verbose=0)
    >>> student.save("student.keras")

    Reference:
        Hinton et al. 2015, https://arxiv.org/abs/1503.02531
    """

    def __new__(cls, *args, **kwargs):
        if cls.__init__ is Distiller.__init__:
            check_arguments(args, kwargs)
        return super().__new__(cls, *args, **kwargs)

    def __init__(
        self,
        *,
        student: keras.Model,
        teacher: Any,
        terms: Any = None,
        supervised_weight: ScheduleLike = 1.0,
        inputs: Structure = None,
        rollouts: Any = None,
        name: str | None = None,
    ):
        terms = as_terms(terms, teacher)
        # Without activations: the student trains on its labels alone, in the same loop.
        teacher = CachedTeacher({}) if teacher is None else as_teacher(teacher)
        check_models(student, teacher)
        if rollouts is None:
            # With rollouts, it is where the end token comes from.
            warn_of_preprocessor(student)
        super().__init__(name=name, dtype=student.dtype_policy)
        self.supervised_weight = check_positive(supervised_weight, "supervised_weight", zero=True)
        self.student = student
        self.teacher = teacher
        inputs = input_specs(inputs, student, *teacher.models)
        student_taps = [tap for term in terms for tap in tap_names(term.student)]
        teacher_taps = [tap for term in terms for tap in term.teacher_taps]
        self._tap(inputs, [OUTPUT, *student_taps], teacher_taps)
        # Checked again: tracing may have created the weights of a model that was not built.
        check_models(student, teacher)
        students, teachers = self._traced.student, self._traced.teacher
        self.terms = tuple(
            term.build(
                select_activations(students, term.student),
                select_activations(teachers, term.teacher),
                (student, teacher),
            )
            for term in terms
        )
        check_masks(self.terms, inputs, students)
        self.heads = [term.head for term in self.terms if term.head is not None]
        self.term_losses = [term.loss for term in self.terms]
        # Tracked by Keras, so that frozen weights of heads and weights with state are saved.
        self.teacher_heads = layers_of(term.teacher_head for term in self.terms)
        self.term_weights = layers_of(term.weight for term in self.terms)
        parts = weighted_losses(self.supervised_weight, self.terms)
        self._total_loss = TotalLoss(parts, {"loss": student}, (*self.heads, *self.term_losses))
        self._compiled_losses, self._teacher_metrics = CompiledLosses(student), TeacherMetrics()
        self.rollouts, self._roll_out = rollouts, connect_rollouts(rollouts, student, teacher, self._traced)
        self.built = True

    def call(self, inputs, training=None):
        return self.student(own_inputs(self.student, split_inputs(inputs)[0]), training=training)

    def training_batch(self, batch: Batch) -> Batch:
        return batch if self._roll_out is None else self._roll_out(batch, self.optimizer)

    def teacher_activations(self, batch: Batch) -> dict[str, Structure]:
        return self.teacher.activations(batch)

    def student_activations(self, batch: Batch, training: bool) -> dict[str, Structure]:
        return self._taps(batch.inputs, training=training)

    def losses_of(self, batch: Batch, student: dict, teacher: dict, training: bool) -> dict:
        supervised = self.compute_loss(
            batch.inputs, batch.labels, self.student_outputs(student), batch.sample_weight, training
        )
        losses = {"supervised_loss": local_mean(supervised, batch)}
        sparse = teacher.sparse() if isinstance(teacher, CachedActivations) else teacher
        for term in self.terms if teacher is not None else ():
            pair = self.compared_activations(term, student, sparse if term.takes_top_k else teacher)
            weighted = for_tap(batch, tap_names(term.student)[0], self._traced.student)
            values = term.compare(*pair, weighted, training, activations=teacher)
            losses[f"{term.name}_loss"] = mean_over_examples(values)
        return losses

    def compared_activations(self, term: Any, student: dict, teacher: dict) -> tuple[Structure, Structure]:
        # The logits of a model that ends in a softmax are the input of the softmax.
        student, teacher = select_activations(student, term.student), select_activations(teacher, term.teacher)
        if term.logits:
            student = logits_of(student, select_activations(self._traced.student, term.student))
            specs = select_activations(self._traced.teacher, term.teacher)
            teacher = teacher if isinstance(teacher, TopKLogits) else logits_of(teacher, specs)
        return student, teacher

    def after_update(self, batch: Batch) -> None:
        self.teacher.after_step(self.student)

    def student_outputs(self, student: dict) -> Structure:
        return student[OUTPUT]

    @property
    def outputs(self) -> dict[str, keras.Model]:
        return {OUTPUT: self.student}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Return the supervised loss alone, or None; see `keras.Model.compute_loss`."""
        # A student with its own loss may need labels.
        if y is None and self.supervised_weight == 0:
            return None
        return self._compiled_losses.loss(x, y, y_pred, sample_weight, training)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Update and return the metrics, missing labels left out; see `keras.Model.compute_metrics`."""
        logs = self._compiled_losses.update_metrics(x, y, y_pred, sample_weight)
        return self.get_metrics_result() | logs

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [*self._loss_trackers(), *self._compiled_losses.metrics, *self._teacher_metrics.metrics]

    def summary(self, *args, print_fn=None, **kwargs):
        """Print the summary of Keras, followed by the terms with taps, heads and shapes."""
        super().summary(*args, print_fn=print_fn, **kwargs)
        for term in self.terms:
            (print_fn or print)(description(term, self._traced))

    def export(self, *args: Any, **kwargs: Any) -> Any:
        """Export the student; the arguments are those of `keras.Model.export`."""
        return self.student.export(*args, **kwargs)

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {
            "name": self.name,
            "student": serialize(self.student),
            "terms": [serialize(term) for term in self.terms],
            "supervised_weight": serialize_weight(self.supervised_weight),
            "inputs": serialize(keras.tree.map_structure(symbolic, self._traced.inputs)),
            "rollouts": serialize(self.rollouts),
        }

    @classmethod
    def from_config(cls, config):
        return cls(teacher=teacher_to_load(cls.__name__), **keras.saving.deserialize_keras_object(config))

    def untracked_variables(self) -> dict[str, Any]:
        """Return seed generator states, and the states of rollouts and of a teacher that changes, by name."""
        teacher = {f"teacher_{index}": variable for index, variable in enumerate(self.teacher.state)}
        rollouts = {f"rollouts_{i}": state for i, state in enumerate(getattr(self._roll_out, "state", ()))}
        return super().untracked_variables() | teacher | rollouts

    def _compile_losses(self, loss, loss_weights, metrics, weighted_metrics):
        output = self._traced.student[OUTPUT]
        # Checked again: layers may have been unfrozen since.
        check_shared_weights(self.student, self.teacher)
        check_supervised_loss(self._total_loss.parts, loss is not None or has_own_loss(self.student))
        check_rollout_labels(self.rollouts, loss)
        warn_if_logits_taken_for_probabilities(loss, output)
        metrics, of_teacher = split_metrics(metrics)
        weighted_metrics, weighted_of_teacher = split_metrics(weighted_metrics)
        given = loss, metrics, weighted_metrics
        loss, metrics, weighted_metrics = (connect_layers(parts, self.student, output) for parts in given)
        check_teacher_metrics(self.terms, (*of_teacher, *weighted_of_teacher))
        compiled = supervised_losses(
            self.student,
            loss=loss,
            loss_weights=loss_weights,
            metrics=metrics,
            weighted_metrics=weighted_metrics,
        )
        check_log_names(self._total_loss.trackers, compiled.output_loss_names)
        self._set_teacher_metrics(TeacherMetrics(of_teacher, weighted_of_teacher, self._total_loss.trackers))
        self._compiled_losses = compiled

    def _losses_without_metrics(self):
        return self._compiled_losses.without_metrics()

    def _losses_by_total(self):
        return {"loss": self._compiled_losses}

    def _results(self):
        losses = {tracker.name: tracker.result() for tracker in self._loss_trackers()}
        return losses | self._compiled_losses.results() | self._teacher_metrics.results()

    def _update_teacher_metrics(self, batch, student, teacher):
        for metric in self._teacher_metrics.metrics:
            pair = self.compared_activations(metric, student, teacher)
            self._teacher_metrics.update(metric, *pair, for_tap(batch, metric.student, self._traced.student))

    def _names_of_terms(self):
        return super()._names_of_terms() | {metric.name for metric in self._teacher_metrics.metrics}

    def _tap(self, inputs, student_taps, teacher_taps):
        """Tap both models, and trace them for the specs of all activations."""
        self._taps = Taps(self.student, dict.fromkeys(student_taps))
        self.teacher.connect(list(dict.fromkeys(teacher_taps)))
        cached = inputs, dict(self.teacher.stored)
        self._traced = Traced(
            inputs,
            student=trace(lambda x: self._taps(x, training=False), inputs),
            teacher=trace(lambda x: dict(self.teacher.activations(Batch(x[0], cached=x[1]))), cached),
        )

    def _set_teacher_metrics(self, teacher_metrics):
        """Keep metrics that compare student and teacher, and tap what they need."""
        traced = self._traced
        student_taps = [metric.student for metric in teacher_metrics.metrics if metric.student not in traced.student]
        teacher_taps = [metric.teacher for metric in teacher_metrics.metrics if metric.teacher not in traced.teacher]
        if student_taps or teacher_taps:
            try:
                self._tap(traced.inputs, [*traced.student, *student_taps], [*traced.teacher, *teacher_taps])
            except ValueError:
                self._tap(traced.inputs, traced.student, traced.teacher)
                raise
        for metric in teacher_metrics.metrics:
            metric.connect(self.student, self.teacher)
            metric.check(self._traced.student[metric.student], self._traced.teacher[metric.teacher])
        check_masks(teacher_metrics.metrics, traced.inputs, self._traced.student)
        self._teacher_metrics = teacher_metrics
