"""Model of the running services: their restarts, and the outdated certificates in their memory."""
