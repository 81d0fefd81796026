"""The configuration: its model, its rules, and the position of each problem in the file."""

from certmond.library_subset import defer_patterns

# PyYAML's parser in Python uses this expression. certmond reads documents with libyaml, and uses the parser in Python
# only to edit files. The compilation takes 6 ms.
defer_patterns("yaml.reader")
