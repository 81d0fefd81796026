"""X.509 certificates, and the search for certification paths (RFC 5280)."""

from certmond.library_subset import register

# The `__init__` of `serialization` also imports the formats of SSH keys and bcrypt, which take 0.8 MB in the daemon.
register(
    "cryptography.hazmat.primitives.serialization",
    "cryptography.hazmat.primitives._serialization",
    "cryptography.hazmat.primitives.serialization.base",
)
