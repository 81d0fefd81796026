"""DER, and limits of keys."""
