"""Planners of renewals, repairs, restarts and forecasts, and of the PKI of an empty node."""
