"""Every reader of what others wrote, given what nobody would write: only a value or the declared error may come out.

`python -m fuzz` looks for inputs that break this, guided by coverage; what is worth keeping is in `fuzz/corpus`, and
every test run replays it.
"""
