"""Students that teach one after the other: teacher assistants and born-again networks."""


def chain(students):
    """The students, each taught by the one before it; the first one by the recipe's teacher.

    ```python
    chain([assistant, student])                                                     # a teacher assistant
    chain([student._replace(name=f"generation {n}") for n in (1, 2, 3)])            # born again
    ```

    Every seed has a chain of its own. What was trained, `students/*.keras` in the workdir, makes an `Ensemble`.

    Args:
        students: List of `comparison.Student`, with terms.

    Returns:
        The like, for `comparison.compare`.

    Reference:
        Mirzadeh et al., AAAI 2020, https://arxiv.org/abs/1902.03393; Furlanello et al., ICML 2018,
        https://arxiv.org/abs/1805.04770
    """
    before = [None, *(student.name for student in students)]
    return [student._replace(teacher=name) for student, name in zip(students, before)]
