"""Output for operators and programs: JSON documents, tables, metrics, the HTML page, and the HTTP server."""
