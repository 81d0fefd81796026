"""The configuration: its model, its rules, and the position of each problem in the file."""

from certmond.library_subset import defer_patterns

# Only PyYAML's parser in Python uses this expression; certmond uses libyaml. The compilation takes 6 ms.
defer_patterns("yaml.reader")
