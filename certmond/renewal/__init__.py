"""The renewal of files: new certificate and key, derived files, repairs from the archive."""
