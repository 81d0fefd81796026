"""Work of a rotation on this node: replacement of files, staging of CAs, duration of phases."""
