"""The loop: a student learns from labels and from a teacher."""

import keras
import tensorflow as tf

from keras_distill.data.batch import Batch, split_inputs, unpack
from keras_distill.models.specs import Traced, input_specs, symbolic, trace
from keras_distill.models.taps import OUTPUT, Taps, select_activations, tap_names
from keras_distill.schedules import check_positive, value_at
from keras_distill.teachers import CachedTeacher, as_teacher
from keras_distill.training.base import (
    BaseDistiller,
    local_mean,
    mean_over_examples,
    regularization_losses,
    replica_fraction,
)
from keras_distill.training.compiled_losses import CompiledLosses, connect_loss
from keras_distill.training.teacher_metrics import TeacherMetrics, split_metrics
from keras_distill.training.validation import (
    check_balances,
    check_masks,
    check_models,
    name_terms,
    warn_if_logits_taken_for_probabilities,
)


@keras.saving.register_keras_serializable("keras_distill")
class Distiller(BaseDistiller):
    """Trains a student on the weighted sum of a supervised loss and terms that compare it with a teacher.

    ```
    L = supervised_weight * (the loss given to compile) + sum_i weight_i * term_i + the student's regularisers
    ```

    ```python
    distiller = Distiller(student=student, teacher=teacher, terms=[Term(KLDivergence(temperature=4.0), weight=0.9)], supervised_weight=0.1)
    distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    distiller.fit(x, y, validation_data=(x_test, y_test), epochs=10)
    student.save("student.keras")
    ```

    `compile`, `fit`, `evaluate`, `predict` and callbacks are Keras' own and see the student. Each model runs once a
    step, the teacher in inference mode and outside the gradient tape. Terms are means over the examples of a batch, of
    each example's loss times its sample weight, in float32. Labels may be missing, altogether or from some examples
    (`keras_distill.data.labels.label_mask`), and so may the loss: the terms then teach alone. The logs hold `loss`,
    `supervised_loss`, `<name>_loss` of each term before its weight, `<name>_weight` where that is a `Balance`, and the
    metrics given to `compile`. A callback that monitors one of these losses, other than `loss`, wants `mode="min"`.

    Args:
        student: A `keras.Model`, of which the trained weights remain; compiled or not.
        teacher: A `keras.Model`, a function of the inputs, or a `Teacher`. It is left as it is, and never saved. None,
            together with no terms, for the baseline: the student alone, by the same loop on as many devices.
        terms: A list of `Term`.
        supervised_weight: A number or a schedule. 0 learns from the teacher alone. Defaults to 1.
        inputs: An example batch, `keras.Input` or `tf.TensorSpec` in the structure that the models are called with.
            Needed where no model was built on its inputs yet.

    Raises:
        ValueError: For whatever would fail or silently do something else in training: taps, shapes, probabilities
            where logits are compared, a teacher that shares weights with the student or holds NaN.
    """

    def __init__(self, *, student, teacher, terms, supervised_weight=1.0, inputs=None, name=None):
        terms = name_terms(terms, teacher)
        # Of no activations: the student learns alone, in the same loop.
        teacher = CachedTeacher({}) if teacher is None else as_teacher(teacher)
        check_models(student, teacher)
        super().__init__(name=name, dtype=student.dtype_policy)
        self.supervised_weight = check_positive(supervised_weight, "supervised_weight", zero=True)
        self.student = student
        self.teacher = teacher
        tapped = [
            [name for term in terms for name in tap_names(getattr(term, side))] for side in ("student", "teacher")
        ]
        inputs = input_specs(inputs, student, *teacher.models)
        self._tap(inputs, [OUTPUT, *tapped[0]], tapped[1])
        # Once more: a model that was not built had no weights to share before it was traced.
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
        self.balances = [term.weight for term in self.terms if term.balanced]
        names = ["loss", "supervised_loss", *(f"{term.name}_loss" for term in self.terms)]
        names += [f"{term.name}_weight" for term in self.terms if term.balanced]
        self._follow(names, of_labels=["supervised_loss"])
        self._supervision, self._comparisons = CompiledLosses(), TeacherMetrics()
        self.built = True

    def _supervise(self, loss, loss_weights, metrics, weighted_metrics):
        check_balances(self.terms, loss)
        warn_if_logits_taken_for_probabilities(loss, self._traced.student[OUTPUT])
        connect_loss(loss, self.student, self._traced.student[OUTPUT])
        (metrics, plain), (weighted_metrics, weighted) = split_metrics(metrics), split_metrics(weighted_metrics)
        self._compare(TeacherMetrics(plain, weighted, self._trackers))
        output_names = getattr(self.student, "output_names", None)
        self._supervision = CompiledLosses(loss, loss_weights, metrics, weighted_metrics, output_names)

    def call(self, inputs, training=None):
        return self.student(split_inputs(inputs)[0], training=training)

    def train_step(self, data):
        batch = unpack(data, self.optimizer.iterations)
        teacher = self.teacher.activations(batch)
        with tf.GradientTape() as tape:
            student = self._taps(batch.inputs, training=True)
            losses, part = self._measure(batch, student, teacher, training=True)
            scaled = self.optimizer.scale_loss(part * losses["loss"])
        self._update(tape.gradient(scaled, self.trainable_variables))
        self.teacher.after_step(self.student)
        return self._logs(batch, student, teacher, losses)

    def test_step(self, data):
        batch = unpack(data, self.optimizer.iterations)
        student = self._taps(batch.inputs, training=False)
        teacher = self.teacher.activations(batch)
        losses, _ = self._measure(batch, student, teacher, training=False)
        return self._logs(batch, student, teacher, losses)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The supervised loss alone, or None; see `keras.Model.compute_loss`."""
        return self._supervision.loss(y, y_pred, sample_weight)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """As `keras.Model.compute_metrics`, missing labels left out."""
        self._supervision.update_metrics(y, y_pred, sample_weight)
        return self.get_metrics_result()

    def _results(self):
        losses = {tracker.name: tracker.result() for tracker in self._shown()}
        return losses | self._supervision.results() | self._comparisons.results()

    @property
    def metrics(self):
        return [*self._shown(), *self._supervision.metrics, *self._comparisons.metrics]

    def summary(self, *args, print_fn=None, **kwargs):
        """As `keras.Model.summary`, with the terms, taps, heads and shapes below."""
        super().summary(*args, print_fn=print_fn, **kwargs)
        for term in self.terms:
            head = "no head" if term.head is None else type(term.head).__name__
            student, teacher = (
                ", ".join(f"'{name}' {specs[name].shape}" for name in tap_names(taps))
                for specs, taps in ((self._traced.student, term.student), (self._traced.teacher, term.teacher))
            )
            (print_fn or print)(
                f"Term '{term.name}' ({type(term.loss).__name__}): student {student} -> {head} -> teacher {teacher}"
            )

    def export(self, *args, **kwargs):
        """Exports the student, as `keras.Model.export` does."""
        return self.student.export(*args, **kwargs)

    def get_config(self):
        written = keras.saving.serialize_keras_object
        return {
            "name": self.name,
            "student": written(self.student),
            "terms": [written(term) for term in self.terms],
            "supervised_weight": written(self.supervised_weight),
            "inputs": written(keras.tree.map_structure(symbolic, self._traced.inputs)),
        }

    @classmethod
    def from_config(cls, config):
        raise ValueError(
            "A saved Distiller does not hold its teacher: load it with keras_distill.load_distiller(path, teacher=...)."
        )

    def _tap(self, inputs, student_taps, teacher_taps):
        """Has both models tapped, and finds out what will be there."""
        self._taps = Taps(self.student, dict.fromkeys(student_taps))
        self.teacher.connect(list(dict.fromkeys(teacher_taps)))
        self._traced = Traced(
            inputs,
            student=trace(lambda x: self._taps(x, training=False), inputs),
            teacher=trace(
                lambda x: self.teacher.activations(Batch(x[0], cached=x[1])), (inputs, dict(self.teacher.stored))
            ),
        )

    def _compare(self, comparisons):
        """Takes metrics that see the teacher, and taps what they ask for."""
        traced = self._traced
        known = traced.student, traced.teacher
        asked = [[getattr(metric, side) for metric in comparisons.metrics] for side in ("student", "teacher")]
        if any(tap not in found for found, taps in zip(known, asked) for tap in taps):
            try:
                self._tap(traced.inputs, *([*found, *taps] for found, taps in zip(known, asked)))
            except ValueError:
                self._tap(traced.inputs, *known)
                raise
        for metric in comparisons.metrics:
            metric.check(self._traced.student[metric.student], self._traced.teacher[metric.teacher])
        check_masks(comparisons.metrics, traced.inputs, self._traced.student)
        self._comparisons = comparisons

    def _measure(self, batch, student, teacher, training):
        """What the trackers follow, by name: this replica's mean losses before any weight, `loss`, which is their
        weighted sum, and the weights of balanced terms; and this replica's share of the step.
        """
        total = regularization_losses([self.student])
        part = replica_fraction(batch)
        supervised = self.compute_loss(batch.inputs, batch.labels, student[OUTPUT], batch.sample_weight, training)
        supervised = local_mean(supervised, batch)
        total += value_at(self.supervised_weight, batch.step) * supervised
        losses = {"supervised_loss": supervised}
        for term in self.terms:
            values = term.compare(
                select_activations(student, term.student), select_activations(teacher, term.teacher), batch, training
            )
            losses[f"{term.name}_loss"] = compared = mean_over_examples(values)
            weight = term.weigh(supervised, compared, part, batch, training)
            if term.balanced:
                losses[f"{term.name}_weight"] = weight
            total += weight * compared
        return {"loss": total + regularization_losses([*self.heads, *self.term_losses]), **losses}, part

    def _logs(self, batch, student, teacher, losses):
        self._track(losses, batch)
        self._comparisons.update(batch, student, teacher)
        return self._reported(self.compute_metrics(batch.inputs, batch.labels, student[OUTPUT], batch.sample_weight))

    def _unlisted(self):
        """The random states, and the state of a teacher that moves."""
        return super()._unlisted() | {f"teacher_{index}": state for index, state in enumerate(self.teacher.state)}
