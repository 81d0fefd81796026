"""The daemon: its loop, and one pass of plan and execution."""
