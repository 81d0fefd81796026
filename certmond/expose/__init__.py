"""Output for operators and programs: documents, metrics, the page, and the HTTP server."""
