module certmond/tests/rotation/components

go 1.24
