"""Training of all models of an experiment."""

from __future__ import annotations

import gc
import os
import pathlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import keras

from keras_distill.callbacks.backup import Backup
from keras_distill.callbacks.termination import NonFiniteError
from keras_distill.distribution import workers
from keras_distill.experiment import training, tuned
from keras_distill.experiment.arm import Arm
from keras_distill.experiment.diagnostics import Diagnostics
from keras_distill.experiment.evaluation import Evaluation, Evaluator
from keras_distill.experiment.examples import Examples, describe_non_finite
from keras_distill.experiment.plan import TEACHER
from keras_distill.experiment.prediction import predict
from keras_distill.experiment.progress import Progress
from keras_distill.experiment.store import TrainedModel, TrainingRecord, as_json, digest_of_model
from keras_distill.experiment.teacher_outputs import TeacherOutputs
from keras_distill.experiment.training_data import TrainingData
from keras_distill.saving.load import save_model
from keras_distill.training.distiller import Distiller
from keras_distill.tuning.search import Search

if TYPE_CHECKING:
    from keras_distill.experiment.run import Experiment


class Trained(NamedTuple):
    """One trained model.

    Attributes:
        model: The model; None for other teachers than Keras models, and for further seeds that nothing needs.
        record: The `TrainingRecord`; None for a teacher that was trained elsewhere.
        evaluation: Its `Evaluation`; None for a teacher whose outputs are not those of a student.
        path: Path of the saved model; None for a teacher that was trained elsewhere.
    """

    model: Any
    record: TrainingRecord | None
    evaluation: Evaluation | None
    path: pathlib.Path | None = None


class Execution:
    """Trains the models of an `Experiment` in a folder, or loads those that are trained already.

    Attributes:
        plan: The `Experiment`.
        folder: The folder.
        trained: `{(name, seed): Trained}`. The teacher has the name "teacher" and seed 0.
        diagnostics: The `Diagnostics`.
        evaluator: The `Evaluator`, once the teacher is trained.
        arms: The arms. A `TunedArm` stands here with its default settings until its search has ended.
        search: `Search` of a `TunedArm`; None without one.
        training_data: The `TrainingData` of all arms.

    Args:
        plan: The `Experiment`.
        folder: Folder of all files.
    """

    def __init__(self, plan: Experiment, folder: pathlib.Path):
        self.plan, self.folder = plan, folder
        self.trained: dict[tuple[str, int], Trained] = {}
        self.diagnostics = Diagnostics(plan.strict)
        self.evaluator: Evaluator
        self.arms = list(plan.arms)
        self.search: Search | None = None
        # Arms that others start from or learn from.
        self._used = {name for arm in plan.arms for name in (arm.start, arm.teacher_arm)}
        self._digest = plan.data.digest()
        self._sample = plan.data.train.inputs(range(min(64, len(plan.data.train))))
        self._teachers: dict[tuple[str, int], TeacherOutputs] = {}
        self.training_data = TrainingData(plan, lambda arm: self._new_student(arm, plan.seeds[0]))
        self._progress = Progress()

    def train(self) -> None:
        """Train all models. Findings of the pre-flight check are printed before the first student is trained."""
        plan = self.plan
        self._prepare_teacher()
        # Steps of a teacher take longer than those of its students.
        self._progress.begin(len(plan.seeds) * sum(map(plan.num_steps, plan.arms)))
        for arm in plan.arms:
            if arm.distilled and arm.teacher_arm is None and arm.start is None:
                self._check(arm)
        for position, arm in enumerate(plan.arms):
            if arm.name in plan.tuned:
                arm, self.search = tuned.search(plan.tuned[arm.name], self)
                self.arms[position] = arm
            if arm.distilled and arm.name not in self.diagnostics.findings:
                self._check(arm)
            for number, seed in enumerate(plan.seeds, 1):
                title = f"{arm.name}, seed {number} of {len(plan.seeds)}" if len(plan.seeds) > 1 else arm.name
                self._train(arm, seed, title)

    def first(self, name: str) -> Trained:
        """Return the model of an arm that was trained with the first seed, or the teacher.

        Args:
            name: Name of the arm, or "teacher".
        """
        return self.trained[name, 0 if name == TEACHER else self.plan.seeds[0]]

    def settings(self, arm: Arm, seed: int) -> dict[str, Any]:
        """Return `{name: JSON value}` of all that the weights of an arm depend on.

        Args:
            arm: The arm, or that of the teacher.
            seed: Seed of the training.
        """
        keras.utils.set_random_seed(seed)
        student = self._new_student(arm, seed)
        optimizer = arm.new_optimizer(self.plan.num_steps(arm))
        settings = {**arm.description(), "seed": seed, "data": self._digest, "task": repr(self.plan.task)}
        # The functions of an arm may depend on anything: what they return is compared, not their source.
        settings |= {"student": digest_of_model(student), "optimizer": as_json(optimizer.get_config())}
        if arm is not self.plan.teacher:
            settings["labels"] = self.plan.labels
        if arm.transfer is not None:
            settings["transfer"] = {**arm.transfer.description(), "digest": self.training_data.examples(arm).digest}
        if arm.distilled:
            teacher = self._teacher_outputs(arm, seed)
            terms = arm.new_terms(student, teacher.teacher)
            settings |= {"teacher": teacher.digest, "terms": [as_json(term.get_config()) for term in terms]}
        return settings

    def teacher(self, arm: Arm, seed: int) -> Any:
        """Return the teacher of an arm: that of the experiment, or an arm that was trained with the same seed.

        Args:
            arm: An arm with terms.
            seed: Seed of the training.
        """
        return self._teacher_outputs(arm, seed).teacher

    def distiller(self, arm: Arm, seed: int) -> tuple[Distiller, Callable[[Examples], Any]]:
        """Return the compiled distiller of an untrained student.

        Args:
            arm: The arm.
            seed: Seed of the training.

        Returns:
            The distiller, and a function from examples to the cache of the teacher's outputs to join; it returns None
            if the teacher runs in every step, and for a baseline.
        """
        plan = self.plan
        keras.utils.set_random_seed(seed)
        student = self._new_student(arm, seed)
        teacher, terms, outputs = None, [], lambda examples: None
        if arm.distilled:
            source = self._teacher_outputs(arm, seed)
            teacher, terms = source.teacher, arm.new_terms(student, source.teacher)
            if plan.cache is not False:

                def outputs(examples: Examples) -> Any:
                    return source.cache(examples, terms)

                teacher = outputs(self.training_data.examples(arm)).teacher
            # Labeling draws random numbers only the first time. Heads must not start from other weights then.
            keras.utils.set_random_seed((seed + 2**31) % 2**32)
        weight = arm.supervised_weight if arm.distilled else 1.0
        distiller = Distiller(student=student, teacher=teacher, terms=terms, supervised_weight=weight)
        task = self.training_data.task(arm)
        loss, metrics = (task.loss(student), task.metrics(student)) if self.training_data.labeled else (None, None)
        distiller.compile(
            arm.new_optimizer(plan.num_steps(arm)), loss, metrics=metrics, steps_per_execution=arm.steps_per_execution
        )
        return distiller, outputs

    def _prepare_teacher(self):
        plan = self.plan
        if isinstance(plan.teacher, Arm):
            self._progress.begin(plan.num_steps(plan.teacher), " for the teacher")
            stored = TrainedModel(self.folder / "models", TEACHER, 0, self.settings(plan.teacher, 0))
            trained, note = self._load_or_fit(plan.teacher, stored, 0, TEACHER)
            outputs = self._outputs(trained.model, plan.teacher)
            self.evaluator = Evaluator(plan.task, plan.data.evaluation.labels(), outputs)
            evaluation = self.evaluator.evaluate(outputs)
            self.trained[TEACHER, 0] = trained._replace(evaluation=evaluation)
            if plan.is_chief:
                save_model(trained.model, self.folder / "teacher.keras")
                self._progress.finish(f"{TEACHER}: {self.evaluator.summary(evaluation)}, {note}")
            return
        outputs = None
        if plan.teacher is not None:
            arm = plan.arms[0]
            student = arm.new_student(None if arm.start is None else plan.teacher)
            source = self._teacher_outputs(None, 0)
            outputs = source.outputs_like(student, plan.data.evaluation, plan.task)
        self.evaluator = Evaluator(plan.task, plan.data.evaluation.labels(), outputs)
        if plan.teacher is not None:
            model = plan.teacher if isinstance(plan.teacher, keras.Model) else None
            evaluation = None if outputs is None else self.evaluator.evaluate(outputs)
            self.trained[TEACHER, 0] = Trained(model, None, evaluation)

    def _train(self, arm, seed, title):
        trained, note = self._load_or_fit(arm, self._stored_student(arm, seed), seed, title)
        # The models of further seeds would fill the memory.
        needed = seed == self.plan.seeds[0] or arm.name in self._used or arm.name in self.plan.files
        self.trained[arm.name, seed] = trained if needed else trained._replace(model=None)
        if self.plan.is_chief:
            self._progress.finish(f"{title}: {self.evaluator.summary(trained.evaluation)}, {note}")

    def _stored_student(self, arm, seed):
        return TrainedModel(self.folder / "models", arm.name, seed, self.settings(arm, seed))

    def _load_or_fit(self, arm, stored, seed, title):
        """Return the `Trained` model, for the teacher without an evaluation, and a note on its duration."""
        plan, record, evaluation = self.plan, stored.record(), None
        if record is not None:
            self._progress.skip(plan.num_steps(arm))
            model, note = stored.load(), "trained earlier"
        else:
            # Reference cycles keep up to gigabytes of activations of the previous training alive.
            gc.collect()
            started = time.time()
            model, history = self._fit(arm, stored, seed, title)
            seconds = time.time() - started
            note = f"{seconds:.1f} s"
        if arm is not plan.teacher:
            evaluation = self.evaluator.evaluate(self._outputs(model, arm))
        if record is None:
            if evaluation is not None:
                self.diagnostics.compare_with_initial(arm.name, self.evaluator, evaluation)
            if plan.is_chief:
                stored.save(model, history, seconds, self.diagnostics.findings.get(arm.name, []))
            # A barrier: the other workers must not look for the record before it is written.
            workers.all_gather_text(plan.strategy, "trained")
            stored.delete_checkpoints()
            record = stored.record()
            assert record is not None
        return Trained(model, record, evaluation, stored.path), note

    def _fit(self, arm, stored, seed, title):
        plan, examples = self.plan, self.training_data.examples(arm)
        distiller, stored_outputs = self.distiller(arm, seed)
        stopping = training.early_stopping(arm, plan.task)
        backup = Backup(stored.checkpoints, plan.backup_every, seed, stored.settings, callbacks=stopping, keep=True)
        further = plan.callbacks(title, seed) if plan.callbacks else []
        callbacks = [*stopping, self._progress.epochs(title, plan.num_steps(arm)), *further]
        batches = examples.training_batches(backup, arm.batch_size, stored_outputs(examples))
        validation = self.training_data.validation(arm)
        if validation is not None:
            validation = validation.batches(arm.batch_size, stored_outputs(validation))
        try:
            history = training.fit(distiller, batches, arm.epochs, backup, validation, callbacks)
        except NonFiniteError as error:
            # Rerun with the same settings, the training would end in the same step again.
            stored.delete_checkpoints()
            advice = f"{error} {describe_non_finite(examples)}".strip()
            raise NonFiniteError(f"Training of '{title}' stopped. {advice}") from error
        return distiller.student, history

    def _outputs(self, model, arm):
        return predict(self.plan.task.predictor(model), self.plan.data.evaluation, self.folder, arm.batch_size)

    def _new_student(self, arm, seed):
        return arm.new_student(None if arm.start is None else self._start(arm, seed))

    def _start(self, arm, seed):
        return self.trained[arm.start, 0 if arm.start == TEACHER else seed].model

    def _teacher_outputs(self, arm, seed):
        key, teacher = (TEACHER, 0), self.plan.teacher
        if arm is not None and arm.teacher_arm is not None:
            key = (arm.teacher_arm, seed)
        elif arm is not None and arm.teacher is not None:
            key, teacher = (f"teacher of {arm.name}", 0), arm.teacher
        if key not in self._teachers:
            teacher = self.trained[key].model if key in self.trained else teacher
            self._teachers[key] = TeacherOutputs(
                teacher, self.folder / "teacher_cache", self._sample, self.plan.strategy
            )
            if isinstance(self.plan.cache, str | os.PathLike) and key == (TEACHER, 0):
                self._teachers[key].use(self.plan.cache, self.plan.data.train)
        return self._teachers[key]

    def _check(self, arm):
        """Run the pre-flight check of an arm, which needs a single device."""
        if self.plan.distributed:
            return
        seed = self.plan.seeds[0]
        record = self._stored_student(arm, seed).record()
        if record is not None:
            self.diagnostics.restore(arm.name, record.findings)
            return
        distiller, stored_outputs = self.distiller(arm, seed)
        initial = self.evaluator.evaluate(self._outputs(distiller.student, arm))
        examples = self.training_data.examples(arm)
        batches = examples.shuffled_batches(arm.batch_size, stored_outputs(examples))
        self.diagnostics.check(arm.name, distiller, batches, initial)
