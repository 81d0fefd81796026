"""Reports of certmond: the journal, the audit log, the change log, and hooks."""
