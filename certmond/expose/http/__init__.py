"""HTTP server of `certmond serve`, with TLS and basic authentication."""
