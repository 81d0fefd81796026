"""What people and machines look at: rendered text, and the HTTP server that hands it out."""
