"""The daemon `certmond run`: the loop, the execution of the plan, and the notifications to systemd."""
