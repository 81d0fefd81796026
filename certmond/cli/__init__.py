"""Commands of certmond, and the functions that they share."""
