"""Time left of an experiment."""

from keras_distill.experiment.progress import Progress


def test_students_are_not_estimated_by_the_speed_of_the_teacher(capsys):
    progress = Progress()
    progress.begin(10, " for the teacher")
    assert progress.left() == ""
    progress.update(steps=5, seconds=300.0)
    assert progress.left() == "; 5 min 0 s left for the teacher"
    progress.begin(100)
    assert progress.left() == ""
    progress.skip(20)
    progress.update(steps=40, seconds=20.0)
    progress.finish("distilled: accuracy 97.60 %")
    assert capsys.readouterr().out.strip() == "distilled: accuracy 97.60 %; 20.0 s left"
    progress.update(steps=40, seconds=20.0)
    assert progress.left() == ""
