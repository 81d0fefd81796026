"""Commands of certmond, and the functions that they share."""

from certmond.deferred_module import defer

# The standard library and cryptography import these modules for functions that most commands do not call.
defer("ast", "random", "textwrap", "tokenize")
