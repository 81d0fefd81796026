"""What an installation is: the distribution, and a configuration for it."""
