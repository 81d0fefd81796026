"""The rules, and their application to what was observed."""
