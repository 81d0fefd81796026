"""Reading the files of the node: path resolution, consistent reads, patterns, inotify."""
