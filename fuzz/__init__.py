"""Fuzzing of every parser of external data: a parser may only return a value or raise its declared error.

`python -m fuzz` searches for inputs that violate this, guided by coverage. `fuzz/corpus` has the selected inputs, and
every test run replays them.
"""
