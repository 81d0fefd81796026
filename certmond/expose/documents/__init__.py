"""The JSON documents, and the tables of the terminal."""
