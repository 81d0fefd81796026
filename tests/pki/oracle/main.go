// The oracle says what Kubernetes' own libraries make of certificates: Go's crypto/x509 and encoding/pem.
//
// It reads every question from one JSON file and prints every answer as JSON:
//
//	oracle questions.json > answers.json
//
// It uses the standard library only, so that nothing is downloaded to build it.
package main

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"runtime"
	"time"
)

type chain struct {
	Leaf          []byte   `json:"leaf"`
	Anchors       [][]byte `json:"anchors"`
	Intermediates [][]byte `json:"intermediates"`
	Usage         string   `json:"usage"`
	At            int64    `json:"at"`
}

type verdict struct {
	OK    bool   `json:"ok"`
	Error string `json:"error"`
}

type contents struct {
	Certificates []string `json:"certificates"`
	Error        string   `json:"error"`
}

var usages = map[string]x509.ExtKeyUsage{
	"":            x509.ExtKeyUsageAny,
	"server auth": x509.ExtKeyUsageServerAuth,
	"client auth": x509.ExtKeyUsageClientAuth,
}

// pool skips what it cannot parse, as CertPool.AppendCertsFromPEM does. It also skips issuers with a DSA key: Go verifies
// no signature of theirs, and before 1.24.8 they made Verify panic (CVE-2025-58188).
func pool(ders [][]byte, leaf *x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, der := range ders {
		certificate, err := x509.ParseCertificate(der)
		if err == nil && (certificate.PublicKeyAlgorithm != x509.DSA || certificate.Equal(leaf)) {
			pool.AddCert(certificate)
		}
	}
	return pool
}

func verify(question chain) verdict {
	leaf, err := x509.ParseCertificate(question.Leaf)
	if err == nil {
		_, err = leaf.Verify(x509.VerifyOptions{
			Roots:         pool(question.Anchors, leaf),
			Intermediates: pool(question.Intermediates, nil),
			CurrentTime:   time.Unix(question.At, 0),
			KeyUsages:     []x509.ExtKeyUsage{usages[question.Usage]},
		})
	}
	if err != nil {
		return verdict{Error: err.Error()}
	}
	return verdict{OK: true}
}

// read is client-go's util/cert.ParseCertsPEM, which every component reads its certificates with.
func read(text []byte) contents {
	found := contents{Certificates: []string{}}
	for len(text) > 0 {
		var block *pem.Block
		block, text = pem.Decode(text)
		if block == nil {
			break
		}
		if block.Type != "CERTIFICATE" || len(block.Headers) != 0 {
			continue
		}
		certificates, err := x509.ParseCertificates(block.Bytes)
		if err != nil {
			return contents{Certificates: []string{}, Error: err.Error()}
		}
		for _, certificate := range certificates {
			sum := sha256.Sum256(certificate.Raw)
			found.Certificates = append(found.Certificates, hex.EncodeToString(sum[:]))
		}
	}
	return found
}

func run(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var questions struct {
		Chains    []chain  `json:"chains"`
		Documents [][]byte `json:"documents"`
	}
	if err := json.Unmarshal(text, &questions); err != nil {
		return err
	}
	answers := struct {
		Go        string     `json:"go"`
		Chains    []verdict  `json:"chains"`
		Documents []contents `json:"documents"`
	}{Go: runtime.Version(), Chains: []verdict{}, Documents: []contents{}}
	for _, question := range questions.Chains {
		answers.Chains = append(answers.Chains, verify(question))
	}
	for _, document := range questions.Documents {
		answers.Documents = append(answers.Documents, read(document))
	}
	return json.NewEncoder(os.Stdout).Encode(answers)
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: oracle questions.json")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "oracle:", err)
		os.Exit(1)
	}
}
