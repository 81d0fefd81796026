"""Signers: what turns a request into a certificate. One small protocol, one module for each kind."""
