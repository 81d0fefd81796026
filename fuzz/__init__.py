"""Fuzzing of every parser of external data. A parser may only return a value or raise its declared error.

`python -m fuzz` searches for inputs that violate this rule, and uses code coverage as a guide. `fuzz/corpus` contains
selected inputs, which every test run repeats.
"""
