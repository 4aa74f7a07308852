"""The kinds of answers, a file each: how a kind is read from text, and when two answers of it are equal.

A new kind that is one text, such as a date, has a ``read`` and a ``compare`` that ``Equality.compare_leaves`` calls.
One that is made of other answers has a type in ``forms.py``, a ``read`` in the list of ``parsing.py``, and a
``compare`` that ``Equality.__call__`` calls.
"""
