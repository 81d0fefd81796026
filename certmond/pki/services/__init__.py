"""Running services, and those with an outdated certificate in memory."""
