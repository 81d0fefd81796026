"""Parsers of the files and settings of the kubelet."""
