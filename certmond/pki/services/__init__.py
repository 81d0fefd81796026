"""Model of the running services: restarts of services, and outdated certificates in the memory of services."""
