"""What runs, and which service holds an older certificate."""
