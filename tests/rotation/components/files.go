package main

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"
)

// credentials are what a client has in memory: whom it trusts, and how it shows itself, in the handshake and after it.
type credentials struct {
	server  string
	roots   *x509.CertPool
	show    func(*tls.CertificateRequestInfo) (*tls.Certificate, error)
	headers string
}

// once reads a file whose content is held until this process ends, and tells so: `holds PATH SHA-256`.
func once(path string) []byte {
	content, err := os.ReadFile(path)
	if err != nil {
		fatal(err)
	}
	fmt.Printf("holds %s %x\n", path, sha256.Sum256(content))
	return content
}

func pool(content []byte) (*x509.CertPool, error) {
	found := x509.NewCertPool()
	if !found.AppendCertsFromPEM(content) {
		return nil, errors.New("no certificates in the CA file")
	}
	return found, nil
}

func poolOnce(path string) *x509.CertPool {
	found, err := pool(once(path))
	if err != nil {
		fatal(err)
	}
	return found
}

func certificates(content []byte) int {
	count := 0
	for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			count++
		}
	}
	return count
}

// perHandshake loads a pair each time it is asked for: a torn one is an error, as etcd has it
// (etcd, client/pkg/transport/listener.go, baseConfig: GetCertificate and GetClientCertificate).
func perHandshake(cert, key string) func() (*tls.Certificate, error) {
	return func() (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(cert, key)
		return &pair, err
	}
}

// atMostEachSecond loads a pair that is older than a second, and keeps an error as long as a pair
// (client-go, transport/transport.go, cachingCertificateLoader).
func atMostEachSecond(cert, key string) func() (*tls.Certificate, error) {
	var lock sync.Mutex
	var born time.Time
	var pair tls.Certificate
	var err error
	return func() (*tls.Certificate, error) {
		lock.Lock()
		defer lock.Unlock()
		if time.Since(born) > time.Second {
			pair, err = tls.LoadX509KeyPair(cert, key)
			born = time.Now()
		}
		found := pair
		return &found, err
	}
}

// followed is content that is loaded again whenever one of its files has changed; what cannot be loaded leaves the last
// good value (k8s.io/apiserver, pkg/server/dynamiccertificates: dynamic_cafile_content.go, dynamic_serving_content.go).
type followed[T any] struct {
	paths []string
	load  func(contents [][]byte) (T, error)
	lock  sync.Mutex
	seen  string
	value T
}

func follow[T any](load func([][]byte) (T, error), paths ...string) *followed[T] {
	made := &followed[T]{paths: paths, load: load}
	if err := made.look(); err != nil {
		fatal(err)
	}
	return made
}

func (f *followed[T]) look() error {
	stamp := ""
	for _, path := range f.paths {
		var status syscall.Stat_t
		if err := syscall.Stat(path, &status); err != nil {
			return err
		}
		stamp += fmt.Sprint(status.Ino, status.Size, status.Mtim, status.Ctim, ";")
	}
	if stamp == f.seen {
		return nil
	}
	contents := make([][]byte, len(f.paths))
	for i, path := range f.paths {
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		contents[i] = content
	}
	value, err := f.load(contents)
	if err != nil {
		return err // and the next look tries again
	}
	f.seen, f.value = stamp, value
	return nil
}

func (f *followed[T]) get() T {
	f.lock.Lock()
	defer f.lock.Unlock()
	_ = f.look()
	return f.value
}

func pairOf(contents [][]byte) (*tls.Certificate, error) {
	pair, err := tls.X509KeyPair(contents[0], contents[1])
	return &pair, err
}

func poolOf(contents [][]byte) (*x509.CertPool, error) { return pool(contents[0]) }

var field = regexp.MustCompile(`(?m)^\s*(?:- )?(certificate-authority-data|certificate-authority|client-certificate-data|` +
	`client-certificate|client-key-data|client-key|server): *"?([^"\s]+)"?\s*$`)

// kubeconfig reads one with a single cluster and user; `read` reads it, and the files that it refers to.
func kubeconfig(path string, read func(string) []byte) (*credentials, error) {
	fields := map[string]string{}
	for _, match := range field.FindAllSubmatch(read(path), -1) {
		fields[string(match[1])] = string(match[2])
	}
	value := func(name string) []byte {
		if data, given := fields[name+"-data"]; given {
			decoded, _ := base64.StdEncoding.DecodeString(data)
			return decoded
		}
		if file := fields[name]; file != "" {
			if !filepath.IsAbs(file) {
				file = filepath.Join(filepath.Dir(path), file)
			}
			return read(file)
		}
		return nil
	}
	roots, err := pool(value("certificate-authority"))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	pair, err := tls.X509KeyPair(value("client-certificate"), value("client-key"))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	show := func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	return &credentials{server: strings.TrimSuffix(fields["server"], "/"), roots: roots, show: show}, nil
}

// kubeconfigOnce is how every component has its kubeconfig: what is embedded stays in memory
// (client-go, transport/transport.go: certificate data is a static certificate).
func kubeconfigOnce(path string) *credentials {
	found, err := kubeconfig(path, once)
	if err != nil {
		fatal(err)
	}
	return found
}

func unquoted(content []byte, name string) string {
	for _, line := range bytes.Split(content, []byte("\n")) {
		if key, value, found := strings.Cut(strings.TrimSpace(string(line)), ":"); found && key == name {
			return strings.Trim(strings.TrimSpace(value), `"'`)
		}
	}
	return ""
}
