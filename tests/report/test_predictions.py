"""Images of predictions on a page."""

import base64

from keras_distill.experiment.example import decode_png, encode_png
from keras_distill.report import predictions
from keras_distill.report.page import render
from tests.report import samples
from tests.report.pages import Page


def test_rows_end_with_the_teacher():
    results = samples.results(pictures=samples.pictures())
    first, second = predictions.rows(results)
    assert [name for name, _ in first] == ["input", "label", "distilled", "teacher"]
    picture = results.pictures[1]
    expected = [picture.image, picture.label, picture.predictions["distilled"], picture.predictions["teacher"]]
    for (_, photo), image in zip(second, expected, strict=True):
        assert (decode_png(photo.source.partition(",")[2]) == image).all() and (photo.width, photo.height) == (28, 28)
    assert len({photo.alt for row in (first, second) for _, photo in row}) == 8


def test_predictions_on_the_page():
    pictures = samples.pictures((20, 100))
    page = Page(render(samples.results(pictures=pictures, examples=[])))
    images = page.all("img")
    assert [image["width"] for image in images] == ["100"] * 8 and not any(image.get("class") for image in images)
    assert base64.b64decode(images[4]["src"].partition(",")[2]) == base64.b64decode(encode_png(pictures[1].image))
    assert "Prediction of \u201cteacher\u201d for example 2." in [image["alt"] for image in images]
    assert "Predictions" in page.texts["h2"]
    assert any("The first 2 test examples" in text for text in page.texts["p"])
    small = Page(render(samples.results(pictures=samples.pictures((28, 28), 1), examples=[])))
    assert [image["class"] for image in small.all("img")] == ["pixels"] * 4
    assert "Predictions" not in Page(render(samples.results())).texts["h2"]
