"""JSON documents for scripts, and tables that commands print from these documents."""
