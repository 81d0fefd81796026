"""Command line of certmond: a module for each group of commands, and modules that the commands share."""
