"""On-policy distillation: texts that the student or the teacher writes during training."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_distill.language.continuation import Continuation
from keras_distill.language.replay import connect_replay
from keras_distill.language.sampling import Sampling
from keras_distill.language.writers import connect_writer
from keras_distill.models.specs import Traced
from keras_distill.utils.arguments import check_integer, check_number

WRITERS = ("student", "teacher", "mixture")


@keras.saving.register_keras_serializable("keras_distill")
class Rollouts:
    """Texts that a model writes during training, for `Distiller(rollouts=...)`.

    In a training step, the prompts of the batch are continued, and student and teacher are compared on the result:

    ```
    writer="student"    on-policy distillation (GKD): the student learns where its own texts lead
    writer="teacher"    sequence-level distillation: the student learns from the teacher's texts
    writer="mixture"    each token is drawn from (1 - teacher_fraction) p_student + teacher_fraction p_teacher
    ```

    The prompt of an example ends with the position of its first sample weight other than 0, as `completions` sets
    them. Without weights for positions, the whole text without its padding is the prompt. Generated tokens and the
    stop token have the weight of the example, prompts and padding 0: a term counts them alone. Labels are the
    generated tokens where the teacher writes. Elsewhere they are missing (-1): the supervised loss and the metrics of
    `compile` see given completions alone, never the student's samples. Validation uses given completions.

    With a replay buffer (`replay_size`), a part of the steps trains on texts that were written in earlier steps, and
    takes no time to write them. They are off-policy: the student has changed since. Prompts and texts are stored as
    tokens; teacher and student compute their logits again. The buffer is saved with the distiller and its checkpoints.

    Texts are written in inference mode, outside of the gradient tape. Causal language models of KerasHub keep keys and
    values of earlier tokens; any other model of tokens runs on the whole window for each token. Random numbers depend
    on `seed`, step and replica alone, so that a resumed training writes the same texts; those of a step that XLA
    compiles are others.

    Args:
        max_length: Number of tokens of prompt and continuation, > 1. 64 to 512 is typical. Shorter windows are padded
            to it. Defaults to the window of the batch.
        on_policy_fraction: Probability that a step continues prompts, in (0, 1]; other steps train on the given
            completions. 0.5 or 1 is typical. Defaults to 1.
        writer: "student", "teacher" or "mixture". Defaults to "student".
        teacher_fraction: Part of the teacher in a "mixture", in (0, 1). 0.2 is typical. Defaults to 0.2.
        temperature: Softmax temperature of the writer, >= 0; 0 is greedy. 1 is typical. Defaults to 1.
        top_k: Number of most probable words that are drawn from. Defaults to None, all words.
        top_p: Total probability of the most probable words that are drawn from, in (0, 1]. Defaults to None, all words.
        stop_token_ids: Word indices that end a text, an integer or a list; an empty list fills the window. Defaults to
            the end tokens of the preprocessor of student or teacher.
        pad_token_id: Word index that fills the window after a text. A model of tokens without `padding_mask` never
            writes it. Defaults to that of the preprocessor, or 0.
        seed: Integer >= 0. Defaults to 0.
        replay_size: Number of the latest texts that are kept for later steps, at least the batch size. 1000 is typical.
            Needs `max_length`, and one replica. Defaults to None: each text is used once.
        replay_ratio: Probability that a step which continues prompts takes stored texts instead, in [0, 1), once the
            buffer holds a batch. 0.5 halves the time of writing. Defaults to 0.5.

    Raises:
        ValueError: For an argument out of range. When the distiller is made, for a model whose output is not logits of
            each token, a teacher whose words are not the student's, tokenizers that differ, stored teacher outputs, a
            missing stop token, and a replay buffer without `max_length` or on several replicas.

    Example:
    >>> rollouts = Rollouts(max_length=16, on_policy_fraction=0.5, stop_token_ids=1)

    Reference:
        Agarwal et al. 2024, https://arxiv.org/abs/2306.13649; Kim & Rush 2016, https://arxiv.org/abs/1606.07947;
        Gu et al. 2024, https://arxiv.org/abs/2306.08543 (mixture); Ko et al. 2024, https://arxiv.org/abs/2402.03898
        (replay buffer)
    """

    def __init__(
        self,
        max_length: int | None = None,
        on_policy_fraction: float = 1.0,
        writer: str = "student",
        teacher_fraction: float = 0.2,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        stop_token_ids: int | Sequence[int] | None = None,
        pad_token_id: int | None = None,
        seed: int = 0,
        replay_size: int | None = None,
        replay_ratio: float = 0.5,
    ):
        if writer not in WRITERS:
            raise ValueError(f"`writer` must be one of {list(WRITERS)}. Received: {writer!r}")
        self.max_length = check_integer(max_length, "max_length", at_least=2, optional=True)
        self.on_policy_fraction = check_number(on_policy_fraction, "on_policy_fraction", above=0, at_most=1)
        self.writer = writer
        self.teacher_fraction = check_number(teacher_fraction, "teacher_fraction", above=0, below=1)
        self.sampling = Sampling(temperature, top_k, top_p)
        self.stop_token_ids = as_token_ids(stop_token_ids)
        self.pad_token_id = check_integer(pad_token_id, "pad_token_id", at_least=0, optional=True)
        self.seed = check_integer(seed, "seed", at_least=0)
        self.replay_size = check_integer(replay_size, "replay_size", optional=True)
        self.replay_ratio = check_number(replay_ratio, "replay_ratio", at_least=0, below=1)

    @property
    def writes_labels(self) -> bool:
        """True if the generated tokens are labels: the teacher writes them."""
        return self.writer == "teacher"

    def connect(self, student: keras.Model, teacher: Any, traced: Traced) -> Continuation:
        """Return the function of a batch and the step that replaces the batch. `Distiller` calls this.

        Args:
            student: The student.
            teacher: The `Teacher`.
            traced: Inputs and activations of both.

        Raises:
            ValueError: For models that cannot write texts for one another.
        """
        writer = connect_writer(self, student, teacher, traced)
        return Continuation(self, writer, connect_replay(self.replay_size, self.max_length, traced.inputs))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {
            "max_length": self.max_length,
            "on_policy_fraction": self.on_policy_fraction,
            "writer": self.writer,
            "teacher_fraction": self.teacher_fraction,
            "temperature": self.sampling.temperature,
            "top_k": self.sampling.top_k,
            "top_p": self.sampling.top_p,
            "stop_token_ids": self.stop_token_ids,
            "pad_token_id": self.pad_token_id,
            "seed": self.seed,
            "replay_size": self.replay_size,
            "replay_ratio": self.replay_ratio,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Rollouts":
        """Return rollouts with the arguments of a configuration."""
        return cls(**config)


def as_token_ids(token_ids: int | Sequence[int] | None) -> list[int] | None:
    """Return stop tokens as a list, or None.

    Args:
        token_ids: An integer, integers, or None.

    Raises:
        ValueError: For a number that is not an integer >= 0.
    """
    if token_ids is None:
        return None
    several = token_ids if isinstance(token_ids, (list, tuple)) else [token_ids]
    return [check_integer(token_id, "stop_token_ids", at_least=0) for token_id in several]
