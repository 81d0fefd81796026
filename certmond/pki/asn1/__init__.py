"""Reader of DER values, and limits on the size of keys and serial numbers."""
