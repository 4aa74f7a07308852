"""Killable worker processes that compare untrusted answers.

A single answer can hold an interpreter for hours inside C code, where no alarm and no watchdog thread reaches it; it
can also fill the memory or crash.  So answers are compared in processes of their own, under limits that the kernel
enforces, and the parent kills what still misses its deadline.

Four files, from the outside in: ``pool`` is what callers use, ``group`` hands pairs to workers and watches deadlines,
``fork_server`` is the parent's side of the process that forks them, and ``worker`` is what runs in these processes.
``messages`` has what they send each other.
"""
