"""The configuration: its model, its rules, and the position of each problem in the file."""
