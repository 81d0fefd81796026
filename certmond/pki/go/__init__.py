"""Rules of Go's crypto/x509 and crypto/tls, as the components of Kubernetes apply them."""
