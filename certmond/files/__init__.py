"""Reads of the node's files: path resolution, consistent reads, cache, patterns, inotify."""
