"""The time after which something that a test awaits counts as stuck.

No test asserts this duration: it only ends a test that would otherwise wait forever. It is long enough for a host on
which many other processes run.
"""

DEADLINE = 180.0
"""Seconds."""
AMPLE = "1h"
"""A duration for the configuration of certmond, as the limit of something that a test expects to succeed: it is longer
than DEADLINE, so a host that stalls does not reach it.
"""
