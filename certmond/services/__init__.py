"""Observation of the services of this node: units, containers, endpoints, health."""
