"""Replacement of the CAs that a distribution, such as k3s, keeps in its datastore."""
