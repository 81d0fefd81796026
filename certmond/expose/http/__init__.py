"""The HTTP server, with TLS and basic authentication."""
