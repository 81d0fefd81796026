"""Planners of renewals, repairs, restarts, the forecast, and the PKI of an empty node."""
