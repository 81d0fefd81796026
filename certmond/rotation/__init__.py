"""The effects of a rotation on this node: files of a step, staged CA, time of a phase."""
