"""Texts of a teacher on disk: responses to prompts, generated once."""

import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_distill.cache import fingerprint, shards
from keras_distill.language.decoding import ModelDecoder, padding_mask_of, tokens_of
from keras_distill.language.packing import PROMPTS, RESPONSES
from keras_distill.language.rollouts import as_token_ids
from keras_distill.language.sampling import Sampling, fold_in, is_one_of, until_stop
from keras_distill.language.writers import Writer, special_tokens
from keras_distill.teachers import as_teacher
from keras_distill.teachers.checks import check_finite_weights
from keras_distill.utils.arguments import check_integer
from keras_distill.utils.files import atomic_write
from keras_distill.utils.progress import progress_bar

_SETTINGS, _TEXTS = "settings.json", "texts.jsonl"


def generate_texts(
    teacher: keras.Model,
    prompts: Sequence[str],
    folder: str | os.PathLike,
    max_length: int | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop_token_ids: int | Sequence[int] | None = None,
    batch_size: int = 32,
    seed: int = 0,
    verbose: int = 1,
) -> None:
    """Generate a teacher's responses to prompts and store them, for sequence-level distillation.

    The folder gets `texts.jsonl`, with an object `{"prompt": ..., "response": ...}` in each line, in the order of the
    prompts. If generation is interrupted, call the function again with the same arguments: it resumes after the last
    finished batch, and writes the same bytes as an uninterrupted run. `read_texts` returns the texts for `completions`.

    Args:
        teacher: `keras_hub.models.CausalLM` with a preprocessor.
        prompts: List of texts, not empty.
        folder: Folder for the texts, on a local file system. It is created.
        max_length: Number of tokens of prompt and response, > 1. 64 to 512 is typical. Defaults to the
            `sequence_length` of the preprocessor.
        temperature: Softmax temperature, >= 0; 0 is greedy, an approximation of the most probable text. Defaults to 0.
        top_k: Number of most probable words that are drawn from. Defaults to None, all words.
        top_p: Total probability of the most probable words that are drawn from, in (0, 1]. Defaults to None, all words.
        stop_token_ids: Word indices that end a text, an integer or a list. Defaults to those of the preprocessor.
        batch_size: Number of prompts per batch, >= 1. Defaults to 32.
        seed: Integer >= 0. Defaults to 0.
        verbose: 1 prints a progress bar; 0 is silent. Defaults to 1.

    Raises:
        ValueError: If the folder holds texts of another teacher, other prompts or other settings; if a prompt is not a
            text or fills the window; if the teacher has no preprocessor, or weights that are NaN or infinity; or if a
            number is out of range.
        RuntimeError: If another process is generating into the folder.
        OSError: As raised by the file system, e.g. if the disk is full. Finished batches are kept.

    Reference:
        Kim & Rush 2016, https://arxiv.org/abs/1606.07947
    """
    preprocessor = _preprocessor(teacher)
    check_finite_weights(as_teacher(teacher))
    prompts = _checked_prompts(prompts)
    window = preprocessor.sequence_length
    max_length = check_integer(max_length, "max_length", at_least=2, optional=True) or window
    stops, pad = special_tokens(as_token_ids(stop_token_ids), None, [preprocessor])
    sampling = Sampling(temperature, top_k, top_p)
    batch_size, seed = check_integer(batch_size, "batch_size"), check_integer(seed, "seed", at_least=0)
    _check_lengths(preprocessor, prompts, max_length)
    settings = {
        "teacher": fingerprint.of_teacher(as_teacher(teacher)),
        PROMPTS: hashlib.sha256(json.dumps(prompts).encode()).hexdigest()[:32],
        "number of prompts": len(prompts),
        "max_length": max_length,
        "temperature": sampling.temperature,
        "top_k": top_k,
        "top_p": top_p,
        "stop_token_ids": stops,
        "batch_size": batch_size,
        "seed": seed,
    }
    folder = pathlib.Path(folder)
    with shards.write_lock(folder):
        _begin_or_resume(folder, settings)
        done = _keep_finished_batches(folder, len(prompts), batch_size)
        progress = progress_bar(len(prompts), "text", verbose)
        progress.update(done)
        generate = _generator(teacher, max_length, sampling, stops, pad, seed)
        with open(folder / _TEXTS, "ab") as file:
            for start in range(done, len(prompts), batch_size):
                batch = prompts[start : start + batch_size]
                lines = [
                    json.dumps({"prompt": prompt, "response": response}, ensure_ascii=False) + "\n"
                    for prompt, response in zip(batch, generate(batch, start), strict=True)
                ]
                file.write("".join(lines).encode())
                file.flush()
                os.fsync(file.fileno())
                progress.add(len(batch))


def read_texts(folder: str | os.PathLike) -> dict[str, list[str]]:
    """Return the texts that `generate_texts` stored, `{"prompts": [...], "responses": [...]}`.

    Empty responses are left out: a training example needs a response.

    Args:
        folder: Folder of the texts.

    Raises:
        ValueError: If the folder holds no texts, or not all of them.
    """
    folder = pathlib.Path(folder)
    if not (folder / _SETTINGS).exists():
        raise ValueError(f"'{folder}' holds no generated texts. Call generate_texts(teacher, prompts, '{folder}').")
    expected = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))["number of prompts"]
    lines = list(_finished_lines(folder))
    if len(lines) != expected:
        raise ValueError(
            f"'{folder}' holds {len(lines)} of {expected} texts. Call generate_texts again with the same arguments: it "
            "resumes."
        )
    texts = [text for text in map(json.loads, lines) if text["response"]]
    return {PROMPTS: [text["prompt"] for text in texts], RESPONSES: [text["response"] for text in texts]}


def _generator(teacher, max_length, sampling, stops, pad, seed) -> Callable[[list[str], int], list[str]]:
    """Return a function of prompts and the number of the first that returns the responses."""
    preprocessor = teacher.preprocessor
    specs = {
        name: tf.TensorSpec((None, max_length), tf.as_dtype(value.dtype))
        for name, value in preprocessor.generate_preprocess(["a"], sequence_length=max_length).items()
    }
    writer = Writer((ModelDecoder(teacher, specs),), (1.0,), sampling, stops, pad)

    @tf.function(input_signature=[specs, tf.TensorSpec((), tf.int32)])
    def write(inputs, number):
        prompt = padding_mask_of(inputs, pad)
        start = ops.cast(tokens_of(inputs), "int32")
        tokens = writer.write(inputs, start, prompt, max_length, fold_in([seed, 0], number))
        written = until_stop(tokens, prompt, max_length, stops)
        return tokens, written & ~prompt & ~is_one_of(tokens, stops)

    def generate(prompts, number):
        inputs = preprocessor.generate_preprocess(prompts, sequence_length=max_length)
        tokens, generated = write({name: tf.convert_to_tensor(value) for name, value in inputs.items()}, number)
        parts = {"token_ids": tokens.numpy(), "padding_mask": generated.numpy()}
        return [str(text) for text in preprocessor.generate_postprocess(parts)]

    return generate


def _preprocessor(teacher):
    preprocessor = getattr(teacher, "preprocessor", None)
    if preprocessor is None or not hasattr(teacher, "generate_step"):
        raise ValueError(
            "`teacher` must be a keras_hub.models.CausalLM with a preprocessor, to read and write texts. Make it with "
            f"`preprocessor=...`, or load it by `CausalLM.from_preset`. Received: {teacher!r}"
        )
    return preprocessor


def _checked_prompts(prompts):
    prompts = prompts.tolist() if isinstance(prompts, np.ndarray) else prompts
    if isinstance(prompts, str) or not isinstance(prompts, Sequence) or not prompts:
        raise ValueError(f"`prompts` must be a list of texts, not empty. Received: {prompts!r}")
    for number, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            raise ValueError(f"Prompt {number} is not a text. Received: {prompt!r}")
    return list(prompts)


def _check_lengths(preprocessor, prompts, max_length):
    if not preprocessor.built:
        preprocessor.build(None)
    start = len(preprocessor.packer.start_value or ())
    for number, prompt in enumerate(prompts):
        length = start + len(preprocessor.tokenizer(prompt))
        if not 0 < length < max_length:
            what = "has no tokens" if not length else f"has {length} tokens, which fill the window of {max_length}"
            raise ValueError(f"Prompt {number} {what}: '{prompt[:50]}'. Change it, or use a larger `max_length`.")


def _begin_or_resume(folder: pathlib.Path, settings: dict[str, Any]) -> None:
    """Write the settings, or raise ValueError if the folder has others."""
    path = folder / _SETTINGS
    if not path.exists():
        if (folder / _TEXTS).exists():
            raise ValueError(f"'{folder}' holds texts without '{_SETTINGS}'. Choose another folder.")
        with atomic_write(path) as file:
            file.write(json.dumps(settings, indent=1).encode())
        return
    stored = json.loads(path.read_text(encoding="utf-8"))
    differences = [
        f"{key} {stored.get(key)!r} instead of {value!r}" for key, value in settings.items() if stored.get(key) != value
    ]
    if differences:
        raise ValueError(
            f"'{folder}' holds texts that were generated with other settings: {', '.join(differences)}. Choose another "
            "folder."
        )


def _keep_finished_batches(folder: pathlib.Path, count: int, batch_size: int) -> int:
    """Cut off the texts of a batch that was interrupted, and return the number of the others."""
    path = folder / _TEXTS
    lines = list(_finished_lines(folder))
    done = len(lines) if len(lines) == count else len(lines) // batch_size * batch_size
    if path.exists():
        os.truncate(path, sum(map(len, lines[:done])))
    return done


def _finished_lines(folder: pathlib.Path) -> Iterator[bytes]:
    """Yield the complete lines of the texts."""
    path = folder / _TEXTS
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return (line for line in lines if line.endswith(b"\n"))
