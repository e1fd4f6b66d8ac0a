"""Sequential distillation: teacher assistants and born-again networks."""

from recipes.comparison import Student


def chain(students: list[Student]) -> list[Student]:
    """Let each student be distilled from the one before it, and the first one from the recipe's teacher.

    ```python
    chain([assistant, student])                                                     # teacher assistant
    chain([student._replace(name=f"generation {n}") for n in (1, 2, 3)])            # born-again networks
    ```

    Each seed has a separate chain. The trained models, `students/*.keras` in the workdir, can form an `Ensemble`.

    Args:
        students: List of `Student` with terms.

    Returns:
        List of `Student`, for `comparison.compare`.

    Reference:
        Mirzadeh et al., AAAI 2020, https://arxiv.org/abs/1902.03393; Furlanello et al., ICML 2018,
        https://arxiv.org/abs/1805.04770
    """
    teachers = [None, *(student.name for student in students)]
    return [student._replace(teacher=teacher) for student, teacher in zip(students, teachers)]
