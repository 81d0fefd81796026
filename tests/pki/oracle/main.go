// The oracle says what Kubernetes' own libraries make of certificates: Go's crypto/x509 and encoding/pem.
//
// It reads every question from one JSON file and prints every answer as JSON:
//
//	oracle questions.json > answers.json
//
// Without a file it answers one question a line: a JSON object with a chain, or with a pair, on standard input, and the
// verdict on standard output.
//
// It uses the standard library only, so that nothing is downloaded to build it.
package main

import (
	"bufio"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
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

// verdict is Verify's. Parse is why one of the certificates cannot be parsed, which makes client-go refuse the whole file
// that it is in, and CertPool.AppendCertsFromPEM pass over the certificate.
type verdict struct {
	OK    bool   `json:"ok"`
	Error string `json:"error"`
	Parse string `json:"parse"`
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

func unparsed(question chain) string {
	for _, der := range append(append([][]byte{question.Leaf}, question.Anchors...), question.Intermediates...) {
		if _, err := x509.ParseCertificate(der); err != nil {
			return err.Error()
		}
	}
	return ""
}

func verify(question chain) verdict {
	why := unparsed(question)
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
		return verdict{Error: err.Error(), Parse: why}
	}
	return verdict{OK: true, Parse: why}
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

// pair is what a server of Kubernetes loads, and the CA that its client knows.
type pair struct {
	Certificate []byte `json:"certificate"`
	Key         []byte `json:"key"`
	Anchors     []byte `json:"anchors"`
	At          int64  `json:"at"`
}

// outcome has the first error of each stage; the later ones are then not reached.
type outcome struct {
	Load      string `json:"load"`
	Handshake string `json:"handshake"`
}

// shake loads a pair as tls.LoadX509KeyPair does, and has a client that trusts the anchors connect to it.
func shake(question pair) (result outcome) {
	loaded, err := tls.X509KeyPair(question.Certificate, question.Key)
	if err != nil {
		return outcome{Load: err.Error()}
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(question.Anchors) {
		return outcome{Handshake: "no anchor"}
	}
	at := func() time.Time { return time.Unix(question.At, 0) }
	here, there := net.Pipe()
	defer here.Close()
	defer there.Close()
	server := tls.Server(there, &tls.Config{Certificates: []tls.Certificate{loaded}, Time: at})
	go func() {
		if server.Handshake() != nil {
			there.Close()
		}
	}()
	client := tls.Client(here, &tls.Config{
		Time:               at,
		InsecureSkipVerify: true, // the name is no matter here; the chain is verified below
		VerifyConnection: func(state tls.ConnectionState) error {
			intermediates := x509.NewCertPool()
			for _, certificate := range state.PeerCertificates[1:] {
				intermediates.AddCert(certificate)
			}
			_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{
				Roots: roots, Intermediates: intermediates, CurrentTime: at(),
				KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
			})
			return err
		},
	})
	here.SetDeadline(time.Now().Add(10 * time.Second))
	if err := client.Handshake(); err != nil {
		return outcome{Handshake: err.Error()}
	}
	return outcome{}
}

// answer runs one question of a batch. What makes Go's own code panic is a refusal as well.
func answer(line []byte) (result any) {
	defer func() {
		if why := recover(); why != nil {
			result = map[string]any{"error": fmt.Sprint("panic: ", why), "load": fmt.Sprint("panic: ", why)}
		}
	}()
	var question struct {
		Chain *chain `json:"chain"`
		Pair  *pair  `json:"pair"`
	}
	if err := json.Unmarshal(line, &question); err != nil {
		return verdict{Error: "no question: " + err.Error()}
	}
	if question.Chain != nil {
		return verify(*question.Chain)
	}
	return shake(*question.Pair)
}

func batch() error {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 64<<20)
	answers := bufio.NewWriter(os.Stdout)
	for lines.Scan() {
		if err := json.NewEncoder(answers).Encode(answer(lines.Bytes())); err != nil {
			return err
		}
		if err := answers.Flush(); err != nil {
			return err
		}
	}
	return lines.Err()
}

func main() {
	var err error
	switch len(os.Args) {
	case 1:
		err = batch()
	case 2:
		err = run(os.Args[1])
	default:
		err = errors.New("usage: oracle [questions.json]")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "oracle:", err)
		os.Exit(1)
	}
}
