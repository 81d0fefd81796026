"""The commands `root-ca stage`, `rotate` and `abort` for the CAs that a distribution keeps in its datastore."""
