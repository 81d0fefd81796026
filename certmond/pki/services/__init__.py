"""Model of the running services: their restarts, and the services with an outdated certificate in memory."""
