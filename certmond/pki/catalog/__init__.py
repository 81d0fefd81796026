"""The entries of the catalogue, and what was observed of them."""
