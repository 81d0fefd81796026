module certmond/tests/pki/oracle

go 1.24
