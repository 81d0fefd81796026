"""DER, and the limits of keys."""
