"""Small BERT preset of KerasHub, and film-review snippets for it."""

import pathlib

WORDS = ["a", "film", "good", "bad", "dull", "fine", "the", "plot", "is"]


def save_preset(folder, layers):
    """Write an untrained BERT with this number of layers, and its tokenizer; return the folder."""
    import keras_hub

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    sizes = {"num_heads": 2, "hidden_dim": 16, "intermediate_dim": 32, "max_sequence_length": 32}
    backbone = keras_hub.models.BertBackbone(vocabulary_size=len(vocabulary), num_layers=layers, **sizes)
    backbone.save_to_preset(str(folder))
    keras_hub.models.BertTokenizer(vocabulary=vocabulary, lowercase=True).save_to_preset(str(folder))
    return folder


def save_snippets(folder, count=60):
    """Write the file that the recipe reads, with synthetic sentences; return the folder."""
    lines = []
    for number in range(count):
        word, rating = ("good", 1.5) if number % 2 else ("bad", -2.0)
        text = f"the plot is {word} {' '.join(WORDS[: number % 7])} {number}"
        lines.append(f"{number}\t{rating if number else 0.0}\t{text}\r\n")
    pathlib.Path(folder, "movieReviewSnippets_GroundTruth.txt").write_bytes("".join(lines).encode())
    return folder
