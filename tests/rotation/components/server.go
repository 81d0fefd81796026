package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

var draining atomic.Bool

// listening has what this process listens with.
var listening []net.Listener

// A server makes one handshake and answers one request for each connection.
type server struct {
	handshake *tls.Config
	clients   func() *x509.CertPool // whom the authenticator trusts; nil where the handshake itself has seen to that
	proxies   func() *x509.CertPool // who may speak for somebody else
	tokens    *keys                 // by which it verifies tokens, and makes them
	backend   string                // the socket that answers for the API
}

// delegated requests a certificate in the handshake, and leaves it to the authenticator to verify it: kube-apiserver
// (k8s.io/apiserver, pkg/server/secure_serving.go and pkg/authentication/request/x509/x509.go) and the kubelet
// (cmd/kubelet/app/server.go, InitializeTLS). The pool in the request is a hint to the client, of the same file.
func delegated(pair func() *tls.Certificate, clients func() *x509.CertPool) *server {
	return &server{clients: clients, handshake: &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return &tls.Config{
			Certificates: []tls.Certificate{*pair()}, ClientAuth: tls.RequestClientCert, ClientCAs: clients(),
			SessionTicketsDisabled: true,
		}, nil
	}}}
}

func (s *server) listen(address string) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		fatal(err)
	}
	listening = append(listening, listener)
	go func() {
		for {
			connection, err := listener.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				go s.serve(connection)
			}
		}
	}()
}

// shut closes every listener, as an API server does when it is told to end and has no --shutdown-delay-duration; what it
// goes on with are requests that were begun (k8s.io/apiserver, pkg/server/genericapiserver.go, RunWithContext).
func shut() {
	for _, each := range listening {
		_ = each.Close()
	}
}

func (s *server) serve(raw net.Conn) {
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(stuck))
	connection := raw
	var found []*x509.Certificate
	if s.handshake != nil {
		secure := tls.Server(raw, s.handshake)
		if err := secure.HandshakeContext(context.Background()); err != nil {
			linger(raw)
			return
		}
		connection = secure
		found = secure.ConnectionState().PeerCertificates
	}
	request, err := http.ReadRequest(bufio.NewReader(connection))
	if err != nil {
		return
	}
	user, status := s.authenticated(request, found)
	health := strings.HasSuffix(request.URL.Path, "z") || request.URL.Path == "/health"
	switch {
	case status == http.StatusUnauthorized:
	case health && draining.Load() && request.URL.Path == "/readyz":
		status = http.StatusServiceUnavailable
	case s.clients != nil && user == "" && !health:
		status = http.StatusForbidden // as system:anonymous
	case s.tokens != nil && s.tokens.answers(connection, request):
		linger(raw)
		return
	case s.backend != "" && !health && len(found) > 0:
		s.forward(connection, request, found)
		return
	}
	body := ""
	if status >= http.StatusBadRequest { // as k8s.io/apiserver does (pkg/endpoints/handlers/responsewriters)
		body = fmt.Sprintf(`{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":%q,"code":%d}`,
			http.StatusText(status), status)
	}
	fmt.Fprintf(connection, "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
		status, http.StatusText(status), len(body), body)
	if secure, ok := connection.(*tls.Conn); ok {
		_ = secure.CloseWrite()
	}
	linger(raw)
}

// authenticated is who asks, "" for nobody, as the authenticators say in their order: a front proxy for whom it speaks, a
// certificate, a token (k8s.io/apiserver, pkg/authentication/authenticatorfactory/delegating.go and
// pkg/kubeapiserver/authenticator/config.go). Whoever shows something that none of them takes is unauthorized.
func (s *server) authenticated(request *http.Request, found []*x509.Certificate) (string, int) {
	token, given := strings.CutPrefix(request.Header.Get("Authorization"), "Bearer ")
	switch {
	case s.clients == nil || (len(found) == 0 && !given):
		return "", http.StatusOK
	case len(found) > 0 && s.proxies != nil && request.Header.Get("X-Remote-User") != "" && found[0].Subject.CommonName == frontProxy &&
		verifies(found, s.proxies()):
		return request.Header.Get("X-Remote-User"), http.StatusOK
	case len(found) > 0 && verifies(found, s.clients()):
		return found[0].Subject.CommonName, http.StatusOK
	case given && s.tokens != nil:
		if user := s.tokens.user(token); user != "" {
			return user, http.StatusOK
		}
	}
	return "", http.StatusUnauthorized
}

const frontProxy = "front-proxy-client" // --requestheader-allowed-names

// verifies as the x509 authenticator does: from the client's certificate to the file as it is now, for client auth.
func verifies(chain []*x509.Certificate, roots *x509.CertPool) bool {
	between := x509.NewCertPool()
	for _, certificate := range chain[1:] {
		between.AddCert(certificate)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	return err == nil
}

// forward lets the API behind all API servers answer: it is told who asks, as by an authenticating proxy.
func (s *server) forward(connection net.Conn, request *http.Request, found []*x509.Certificate) {
	backend, err := net.Dial("unix", s.backend)
	if err != nil {
		fmt.Fprint(connection, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		return
	}
	defer backend.Close()
	request.Header.Set("X-Remote-User", found[0].Subject.CommonName)
	request.Header["X-Remote-Group"] = found[0].Subject.Organization
	request.Close = true
	if request.Write(backend) != nil {
		return
	}
	response, err := http.ReadResponse(bufio.NewReader(backend), request)
	if err != nil {
		return // as the API has it that answers nothing at all
	}
	response.Close = true
	_ = response.Write(connection)
}

// linger lets the other side read what it was told last: closing with something unread would reset the connection.
func linger(raw net.Conn) {
	_ = raw.SetDeadline(time.Now().Add(stuck))
	if tcp, ok := raw.(*net.TCPConn); ok {
		_ = tcp.CloseWrite()
	}
	_, _ = io.Copy(io.Discard, raw)
}
