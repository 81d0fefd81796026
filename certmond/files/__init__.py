"""Access to the node's files: path resolution, consistent reads, a cache, path patterns, and inotify watches."""
