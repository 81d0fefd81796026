"""The commands `certmond root-ca …`."""
