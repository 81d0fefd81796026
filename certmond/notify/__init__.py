"""What certmond reports: the journal, the audit log, the change log, and hooks."""
