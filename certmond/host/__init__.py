"""Effects on this node: reading its files, watching its directories, telling its journal."""
