"""Pure functions and values for the PKI of a Kubernetes node.

This package accesses no files, clocks, logs, threads or environment variables.
"""

import sys

from certmond.library_subset import defer_patterns, exclude

# Without this module, hashlib uses Python's own hash functions, and does not load libcrypto, which takes 4.7 MB. Some
# distributions, such as RHEL, have removed these functions.
_SHA2 = ("_sha2",) if sys.version_info >= (3, 12) else ("_sha256", "_sha512")
exclude("_hashlib", "_md5", "_sha1", *_SHA2, "_sha3", "_blake2")

# The parser of names in the format of RFC 4514 uses these expressions. A daemon in observe mode uses it only for the
# metrics that are compatible with x509-certificate-exporter. The compilation takes 10 ms.
defer_patterns("cryptography.x509.name")
