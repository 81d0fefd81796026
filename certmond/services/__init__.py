"""What runs on this node and what it serves: units, containers, endpoints."""
