"""Algebra on formulas that a model wrote.  All but this file runs in worker processes only.

``latex2sympy2_extended`` reads a formula into a SymPy tree (``reading``); SymPy then simplifies and evaluates nothing.
The tree is evaluated with ``mpmath`` at fixed points (``evaluating``) and at two precisions (``comparing``): a
difference that is zero shrinks with the precision, one that is not zero stays.  So there is neither an absolute nor a
relative tolerance, and 10^-20 is not 0.
"""
