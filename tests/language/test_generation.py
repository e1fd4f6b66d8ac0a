"""Generated texts on disk: contents against KerasHub, resuming, and folders of other texts."""

import json
import os
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest

from keras_distill.language import completions, generate_texts, read_texts
from keras_distill.utils.locks import locked
from tests.support.hub_models import END, gpt2, gpt2_preprocessor

PROMPTS = ["ab", "cde", "x y", "q", "zz"]


def teacher(seed=2):
    return gpt2(seed, gpt2_preprocessor())


def generate(folder, prompts=PROMPTS, seed=2, **options):
    generate_texts(teacher(seed), prompts, folder, **{"batch_size": 2, "verbose": 0} | options)


def contents(folder):
    return (folder / "texts.jsonl").read_bytes()


def test_responses_are_those_of_keras_hub(tmp_path):
    model = teacher()
    generate(tmp_path)
    model.compile(sampler="greedy")
    expected = model.generate(list(PROMPTS), strip_prompt=True)
    lines = [json.loads(line) for line in contents(tmp_path).decode().splitlines()]
    assert [line["prompt"] for line in lines] == PROMPTS
    assert [line["response"] for line in lines] == expected
    texts = read_texts(tmp_path)
    assert texts["responses"] == [text for text in expected if text]
    assert texts["prompts"] == [prompt for prompt, text in zip(PROMPTS, expected) if text]
    _, _, weights = completions(model.preprocessor)(texts)
    assert weights.numpy().any(axis=1).all()


def test_an_interrupted_call_resumes_with_the_same_bytes(tmp_path, monkeypatch):
    sampled = {"temperature": 1.0, "top_p": 0.9, "seed": 4}
    generate(tmp_path / "whole", **sampled)
    expected = contents(tmp_path / "whole")
    lines = expected.splitlines(keepends=True)
    written = []
    monkeypatch.setattr(keras.utils.Progbar, "add", lambda self, number: written.append(number))
    # After 3 texts and a half: one batch is finished, the second was interrupted.
    for finished, kept in ((b"".join(lines[:3]) + lines[3][:9], 2), (b"", 0), (expected, 5), (b"".join(lines[:4]), 4)):
        (tmp_path / "whole" / "texts.jsonl").write_bytes(finished)
        if kept < 5:
            with pytest.raises(ValueError, match=r"holds \d of 5 texts.*resumes"):
                read_texts(tmp_path / "whole")
        written.clear()
        generate(tmp_path / "whole", **sampled)
        assert contents(tmp_path / "whole") == expected and sum(written) == 5 - kept
    generate(tmp_path / "other", **sampled | {"seed": 5})
    assert contents(tmp_path / "other") != expected


@pytest.mark.processes
def test_a_killed_process_resumes(tmp_path):
    code = f"""
        import os, signal
        import keras
        from tests.language.test_generation import generate
        import pathlib

        keras.utils.Progbar.add = lambda self, number: os.kill(os.getpid(), signal.SIGKILL)
        generate(pathlib.Path({str(tmp_path / "killed")!r}), temperature=1.0)
    """
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=environment, check=False)
    assert run.returncode == -9
    assert len(contents(tmp_path / "killed").splitlines()) == 2
    for folder in ("killed", "whole"):
        generate(tmp_path / folder, temperature=1.0)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 3}, "teacher '.*' instead of"),
        ({"prompts": [*PROMPTS[:4], "y"]}, "prompts '.*' instead of"),
        ({"prompts": PROMPTS[:3]}, "number of prompts 5 instead of 3"),
        ({"max_length": 9}, "max_length 10 instead of 9"),
        ({"temperature": 1.0}, "temperature 0.0 instead of 1.0"),
        ({"batch_size": 3}, "batch_size 2 instead of 3"),
        ({"stop_token_ids": [1, END]}, "stop_token_ids"),
    ],
)
def test_other_texts_in_the_folder(tmp_path, changed, message):
    generate(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=f"other settings:.*{message}.*Choose another folder"):
        generate(tmp_path, **changed)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "not empty"),
        ("ab", "a list of texts"),
        (["ab", 3], "Prompt 1 is not a text"),
        (["ab", "cdefghijk"], "Prompt 1 has 10 tokens, which fill the window of 10"),
    ],
)
def test_prompts_that_cannot_be_continued(tmp_path, prompts, message):
    with pytest.raises(ValueError, match=message):
        generate(tmp_path, prompts)
    assert not (tmp_path / "texts.jsonl").exists()


def test_models_and_folders_that_cannot_be_used(tmp_path):
    with pytest.raises(ValueError, match="CausalLM with a preprocessor"):
        generate_texts(gpt2(1), PROMPTS, tmp_path)
    broken = teacher()
    broken.weights[0].assign(np.full(broken.weights[0].shape, np.nan))
    with pytest.raises(ValueError, match="NaN"):
        generate_texts(broken, PROMPTS, tmp_path)
    with pytest.raises(ValueError, match="holds no generated texts"):
        read_texts(tmp_path)
    (tmp_path / "texts.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match="without 'settings.json'"):
        generate(tmp_path)
    with locked(tmp_path / "other" / "writing.lock"), pytest.raises(RuntimeError, match="Another process"):
        generate(tmp_path / "other")
