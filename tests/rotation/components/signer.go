package main

import (
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"time"
)

type authority struct {
	pair  *tls.Certificate
	count int // of certificates in the file
}

func authorityOf(contents [][]byte) (authority, error) {
	pair, err := pairOf(contents)
	return authority{pair, certificates(contents[0])}, err
}

// signing answers CSRs on a socket, a JSON document for each connection: {"csr": PEM, "usages": […]}. The files are
// followed, and anything but one certificate is refused (pkg/controller/certificates/signer/ca_provider.go, setCA):
// at the start, where that ends the process (cmd/kube-controller-manager/app/certificates.go), and at each signature.
func signing(path, certificate, key string) {
	files := follow(authorityOf, certificate, key)
	if err := files.get().usable(certificate); err != nil {
		fatal(fmt.Errorf("failed to start certificate controller: %w", err))
	}
	if path == "" {
		return
	}
	_ = os.Remove(path) // of a process that was killed
	listener, err := net.Listen("unix", path)
	if err != nil {
		fatal(err)
	}
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				continue
			}
			made, err := sign(connection, files.get(), certificate)
			answer := map[string]string{"certificate": string(made)}
			if err != nil {
				answer = map[string]string{"error": err.Error()}
			}
			_ = json.NewEncoder(connection).Encode(answer)
			connection.Close()
		}
	}()
}

func (a authority) usable(path string) error {
	if a.count != 1 {
		return fmt.Errorf("error reading CA cert file %q: expected 1 certificate, found %d", path, a.count)
	}
	return nil
}

func sign(connection net.Conn, by authority, path string) ([]byte, error) {
	var asked struct {
		CSR    string
		Usages []string
	}
	if err := json.NewDecoder(connection).Decode(&asked); err != nil {
		return nil, err
	}
	if err := by.usable(path); err != nil {
		return nil, err
	}
	block, _ := pem.Decode([]byte(asked.CSR))
	if block == nil {
		return nil, errors.New("no PEM")
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	if err := request.CheckSignature(); err != nil {
		return nil, err
	}
	parent, err := x509.ParseCertificate(by.pair.Certificate[0])
	if err != nil {
		return nil, err
	}
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 159))
	template := &x509.Certificate{
		SerialNumber: serial, Subject: request.Subject, DNSNames: request.DNSNames, IPAddresses: request.IPAddresses,
		NotBefore: time.Now().Add(-5 * time.Minute), NotAfter: time.Now().Add(365 * 24 * time.Hour),
		BasicConstraintsValid: true,
	}
	for _, usage := range asked.Usages {
		switch usage {
		case "digital signature":
			template.KeyUsage |= x509.KeyUsageDigitalSignature
		case "key encipherment":
			template.KeyUsage |= x509.KeyUsageKeyEncipherment
		case "client auth":
			template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
		case "server auth":
			template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		}
	}
	signer, _ := by.pair.PrivateKey.(crypto.Signer)
	made, err := x509.CreateCertificate(rand.Reader, template, parent, request.PublicKey, signer)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: made}), err
}
