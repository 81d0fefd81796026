"""Access to the files of the node: path resolution, consistent reads, a cache, path patterns, and inotify watches."""
