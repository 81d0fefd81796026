"""What the crypto/x509 package of Go accepts."""
