"""The time after which something that a test awaits counts as stuck.

No test asserts this duration: it only ends a test that would otherwise wait forever. It is long enough for a host on
which many other processes run.
"""

DEADLINE = 180.0
"""Seconds."""
