"""Language models on the command line: presets of KerasHub and files of texts."""

import csv
import json
import re

import keras
import keras_hub
import numpy as np
import pytest

from keras_distill.cli import main
from keras_distill.experiment import Results
from tests.support.hub_models import END, gpt2, gpt2_preprocessor

PROMPTS, RESPONSES = ["ab", "c", "hello w", ""], ["cd", "abab", "orld", "zz"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    for name, seed in (("teacher", 0), ("student", 1)):
        gpt2(seed, gpt2_preprocessor(window=16), window=16).save_to_preset(str(folder / name))
    pairs = [{"prompt": prompt, "response": response} for prompt, response in zip(PROMPTS, RESPONSES)]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs * 4)))
    (folder / "texts.txt").write_text("abc\n\nhello world\n" * 8)
    return folder


def distill(folder, out, dataset, *options):
    arguments = [str(folder / "teacher"), str(folder / "student"), f"--dataset={folder / dataset}", f"--out={out}"]
    return main(["distill", *arguments, "--epochs=1", "--batch-size=4", "--sequence-length=14", *options])


def perplexity(model, prompts, responses):
    """Compute the perplexity of the responses and the end token in float64 from the logits of each text alone."""
    tokenizer, total, count = model.preprocessor.tokenizer, 0.0, 0
    for prompt, response in zip(prompts, responses):
        start, tokens = [END, *tokenizer(prompt).tolist()], [*tokenizer(response).tolist(), END]
        ids = np.array([start + tokens])
        logits = np.asarray(model({"token_ids": ids, "padding_mask": np.ones_like(ids)}), "float64")[0]
        logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        total -= sum(logits[len(start) - 1 + place, token] for place, token in enumerate(tokens))
        count += len(tokens)
    return np.exp(total / count)


def test_prompts_and_responses(folder, tmp_path, capsys):
    assert distill(folder, tmp_path / "run", "pairs.jsonl", f"--test={folder / 'pairs.jsonl'}") == 0
    results = Results.load(tmp_path / "run" / "results.json")
    scores = {model.name: model.mean() for model in results.models}
    assert results.score.name == "perplexity"
    teacher = keras_hub.models.CausalLM.from_preset(str(folder / "teacher"))
    assert scores["teacher"] == pytest.approx(perplexity(teacher, PROMPTS, RESPONSES), rel=1e-4)
    # The preset is the student that was evaluated, with its tokenizer.
    preset = keras_hub.models.CausalLM.from_preset(str(tmp_path / "run" / "student"))
    assert scores["distilled"] == pytest.approx(perplexity(preset, PROMPTS, RESPONSES), rel=1e-4)
    assert f"Wrote the preset {tmp_path / 'run' / 'student'}" in capsys.readouterr().out
    assert preset.generate("ab", max_length=4).startswith("ab")


def test_losses_do_not_count_prompts_and_padding(folder, tmp_path):
    rows = []
    # The same tokens count, with more or less padding.
    for length in (14, 16):
        run = tmp_path / str(length)
        assert distill(folder, run, "pairs.jsonl", f"--sequence-length={length}", "--validation=0.25") == 0
        with (run / "history.csv").open(newline="") as file:
            rows.append({row["model"]: row for row in csv.DictReader(file)})
    for model, name in (("distilled", "kl_divergence_loss"), ("distilled", "supervised_loss"), ("baseline", "loss")):
        first, second = (float(row[model][name]) for row in rows)
        assert first == pytest.approx(second, rel=1e-4), name


def test_texts_without_prompts(folder, tmp_path):
    assert distill(folder, tmp_path / "run", "texts.txt", "--test=0.5", "--no-baseline") == 0
    results = Results.load(tmp_path / "run" / "results.json")
    teacher = keras_hub.models.CausalLM.from_preset(str(folder / "teacher"))
    # Both halves hold both texts equally often, or nearly.
    one, other = (perplexity(teacher, [""], [text]) for text in ("abc", "hello world"))
    assert min(one, other) < results.teacher().mean() < max(one, other)


def test_a_model_file_trains_with_the_tokenizer_of_the_teacher(folder, tmp_path):
    gpt2(2, window=16).save(tmp_path / "student.keras")
    arguments = [str(folder / "teacher"), str(tmp_path / "student.keras"), f"--dataset={folder / 'pairs.jsonl'}"]
    assert main(["distill", *arguments, "--epochs=1", "--sequence-length=14", f"--out={tmp_path / 'run'}"]) == 0
    assert not (tmp_path / "run" / "student").exists()
    assert keras.saving.load_model(tmp_path / "run" / "student.keras").count_params()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("broken.jsonl", "{", "line 1 of .* is not JSON"),
        ("empty.jsonl", json.dumps({"prompt": "a", "response": ""}), "line 1 of .* that is not empty"),
        ("other.jsonl", json.dumps(["a"]), "line 1 of .* must be an object"),
        ("long.jsonl", json.dumps({"prompt": "a" * 30, "response": "b"}), "A prompt fills the window"),
        ("nothing.txt", "\n", "holds no texts"),
    ],
)
def test_files_that_cannot_be_used(folder, tmp_path, capsys, name, content, message):
    (tmp_path / name).write_text(content)
    assert distill(folder, tmp_path / "run", tmp_path / name) == 1
    assert re.search(message, capsys.readouterr().err)


def test_a_missing_file(folder, tmp_path, capsys):
    assert distill(folder, tmp_path / "run", tmp_path / "nowhere.jsonl") == 1
    assert f"{tmp_path / 'nowhere.jsonl'} not found." in capsys.readouterr().err


def test_models_without_a_preprocessor(folder, tmp_path, capsys):
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(tmp_path / "model.keras")
    arguments = ["check", str(tmp_path / "model.keras"), str(tmp_path / "model.keras")]
    assert main([*arguments, f"--dataset={folder / 'texts.txt'}"]) == 1
    assert "no model has a tokenizer. Pass the directory of a preset" in capsys.readouterr().err


def test_a_student_is_cut_out_of_a_preset(folder, tmp_path, capsys):
    assert main(["student", str(folder / "teacher"), "--width=0.5", f"--out={tmp_path / 'small.keras'}"]) == 0
    small = keras.saving.load_model(tmp_path / "small.keras")
    printed = capsys.readouterr().out
    assert small.backbone.hidden_dim == 4 and "teacher" in printed and "SOURCE is a file of texts" in printed
