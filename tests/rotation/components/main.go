// Stand-ins for the components of a Kubernetes node, as far as they hold certificates: run under the name of one of
// them, with its own flags. Each reads each file again, or once, as the real one does; the places in Kubernetes and
// etcd that say so stand at the functions. With STAND_IN_RECORD and STAND_IN_INTERVAL (milliseconds) each is also the
// client that it is, of every server that it talks to: a new connection each time, all of them recorded. It needs
// nothing but Go.
//
//	kube-apiserver, etcd, kube-controller-manager, kube-scheduler, kubelet
//	kubectl --kubeconfig=FILE [--once]
//	pod
//	ask --to=HOST:PORT --cert=FILE --key=FILE --cacert=FILE [--for=USER] [--bearer=TOKEN] [--token]
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

type flags map[string]string

func main() {
	given := flags{}
	for _, word := range os.Args[1:] {
		if name, value, found := strings.Cut(word, "="); found && strings.HasPrefix(name, "--") {
			given[name[2:]] = value
		} else {
			given[strings.TrimPrefix(word, "--")] = "true"
		}
	}
	ends := make(chan os.Signal, 1)
	signal.Notify(ends, syscall.SIGTERM)
	name := filepath.Base(os.Args[0])
	if name == "ask" {
		ask(given)
	}
	to := recording()
	switch name {
	case "etcd":
		etcd(given, to)
	case "kube-apiserver":
		apiserver(given, to)
	case "kube-controller-manager":
		manager(given, to)
	case "pod":
		pod(given, to)
	case "kube-scheduler":
		own().listen(given["bind-address"] + ":10259")
		asks(kubeconfigOnce(given["kubeconfig"]), to)
	case "kubelet":
		kubelet(given, to)
	case "kubectl":
		kubectl(given, to)
	default:
		fatal(fmt.Errorf("%s is no component", name))
	}
	to.add(map[string]any{"event": "ready", "pid": os.Getpid()})
	fmt.Println("ready")
	<-ends
	draining.Store(true)
	to.add(map[string]any{"event": "ends", "pid": os.Getpid()})
	fmt.Println("draining")
	shut()
	seconds, _ := strconv.ParseFloat(os.Getenv("STAND_IN_DRAIN"), 64)
	time.Sleep(time.Duration(seconds * float64(time.Second)))
	to.flush()
}

// etcd reads the CAs once and both pairs for each handshake, and refuses clients in the handshake
// (etcd, client/pkg/transport/listener.go, baseConfig and ServerConfig). Peers are clients of each other.
func etcd(given flags, to *record) {
	serving := perHandshake(given["cert-file"], given["key-file"])
	peer := perHandshake(given["peer-cert-file"], given["peer-key-file"])
	trusted, peers := poolOnce(given["trusted-ca-file"]), poolOnce(given["peer-trusted-ca-file"])
	for _, each := range []struct {
		urls string
		pair func() (*tls.Certificate, error)
		pool *x509.CertPool
	}{{"listen-client-urls", serving, trusted}, {"listen-peer-urls", peer, peers}} {
		if _, err := each.pair(); err != nil {
			fatal(err)
		}
		for _, address := range strings.Split(given[each.urls], ",") {
			(&server{handshake: &tls.Config{
				GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return each.pair() },
				ClientAuth:     tls.RequireAndVerifyClientCert, ClientCAs: each.pool, SessionTicketsDisabled: true,
			}}).listen(hostOf(address))
		}
	}
	for _, address := range strings.Split(given["listen-metrics-urls"], ",") {
		(&server{}).listen(hostOf(address))
	}
	with := &credentials{roots: peers, show: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return peer() }}
	for _, member := range strings.Split(given["initial-cluster"], ",") {
		if name, address, found := strings.Cut(member, "="); found && name != given["name"] {
			host := hostOf(address)
			to.again(name+"/etcd", "/raft", func() (*credentials, string, error) { return with, host, nil })
		}
	}
}

// apiserver follows its serving pair and its clients' CA (see `follow`), reads etcd's CA and the kubelets' once
// (k8s.io/apiserver, pkg/storage/storagebackend/factory/etcd3.go; client-go, transport/transport.go), the pair for etcd
// for each handshake and the one for kubelets at most each second (pkg/kubelet/client/kubelet_client.go). It follows
// the front proxies' CA as its clients', and what it shows itself as one (kube-aggregator, pkg/apiserver/apiserver.go,
// "aggregator-proxy-cert"): each API server stands for the extension that another one speaks to, whose certificate
// nobody verifies. The keys of tokens are read once.
func apiserver(given flags, to *record) {
	clients := follow(poolOf, given["client-ca-file"])
	pair := follow(pairOf, given["tls-cert-file"], given["tls-private-key-file"])
	served := delegated(pair.get, clients.get)
	served.proxies = follow(poolOf, given["requestheader-client-ca-file"]).get
	served.backend = os.Getenv("STAND_IN_BACKEND")
	served.tokens = tokenKeys(once(given["service-account-key-file"]), once(given["service-account-signing-key-file"]))
	pairForEtcd := perHandshake(given["etcd-certfile"], given["etcd-keyfile"])
	forEtcd := &credentials{roots: poolOnce(given["etcd-cafile"]), show: shown(pairForEtcd)}
	forKubelet := &credentials{show: shown(atMostEachSecond(given["kubelet-client-certificate"], given["kubelet-client-key"]))}
	if path := given["kubelet-certificate-authority"]; path != "" {
		forKubelet.roots = poolOnce(path)
	}
	proxy := follow(pairOf, given["proxy-client-cert-file"], given["proxy-client-key-file"])
	asProxy := &credentials{
		show:    func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return proxy.get(), nil },
		headers: "X-Remote-User: somebody\r\n",
	}
	served.listen(":" + given["secure-port"])
	to.targets("STAND_IN_EXTENSIONS", "/livez?as=proxy", asProxy)
	to.targets("STAND_IN_ETCDS", "/", forEtcd)
	to.targets("STAND_IN_KUBELETS", "/pods", forKubelet)
}

func shown(load func() (*tls.Certificate, error)) func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
}

// manager reads its kubeconfig, the CA for workloads and the service-account key once
// (cmd/kube-controller-manager/app/controllermanager.go, readCA; client-go, transport/transport.go). It follows the CAs
// of clients and of front proxies, as every server with delegated authentication
// (k8s.io/apiserver, pkg/server/options/authentication.go).
func manager(given flags, to *record) {
	once(given["root-ca-file"])
	once(given["service-account-private-key-file"])
	with := kubeconfigOnce(given["kubeconfig"])
	signing(os.Getenv("STAND_IN_SIGNER"), given["cluster-signing-cert-file"], given["cluster-signing-key-file"])
	served := own()
	served.handshake.ClientAuth = tls.RequestClientCert
	served.clients = follow(poolOf, given["client-ca-file"]).get
	served.proxies = follow(poolOf, given["requestheader-client-ca-file"]).get
	served.listen(given["bind-address"] + ":10257")
	asks(with, to)
}

// asks the server of a kubeconfig that is in memory.
func asks(with *credentials, to *record) {
	host := hostOf(with.server)
	to.again(os.Getenv("STAND_IN_SERVER"), "/livez?as=client", func() (*credentials, string, error) { return with, host, nil })
}

// kubelet follows its clientCAFile (cmd/kubelet/app/auth.go); it reads what it serves with once, and its own
// certificate and the embedded CA, too, as it asks its certificate manager and not the disk
// (client-go, transport/cert_rotation.go; cmd/kubelet/app/server.go).
func kubelet(given flags, to *record) {
	config, err := os.ReadFile(given["config"])
	if err != nil {
		fatal(err)
	}
	clients := follow(poolOf, unquoted(config, "clientCAFile"))
	directory := "/var/lib/kubelet/pki"
	var pair tls.Certificate
	if unquoted(config, "serverTLSBootstrap") == "true" {
		both := once(filepath.Join(directory, "kubelet-server-current.pem"))
		pair, err = tls.X509KeyPair(both, both)
	} else {
		pair, err = tls.X509KeyPair(once(filepath.Join(directory, "kubelet.crt")), once(filepath.Join(directory, "kubelet.key")))
	}
	if err != nil {
		fatal(err)
	}
	with := kubeconfigOnce(given["kubeconfig"])
	delegated(func() *tls.Certificate { return &pair }, clients.get).listen(":10250")
	(&server{}).listen("127.0.0.1:10248")
	to.targets("STAND_IN_APISERVERS", "/livez?as=node", with)
}

// kubectl reads its kubeconfig each time anew, as each command of a person does.
func kubectl(given flags, to *record) {
	load := func() (*credentials, string, error) {
		with, err := kubeconfig(given["kubeconfig"], func(path string) []byte { content, _ := os.ReadFile(path); return content })
		if err != nil {
			return nil, "", err
		}
		return with, hostOf(with.server), nil
	}
	if given["once"] != "" {
		with, host, err := load()
		if err != nil {
			fatal(err)
		}
		tell(call(with, host, "/livez?as=admin"))
	}
	endsWithStdin()
	to.again(os.Getenv("STAND_IN_SERVER"), "/livez?as=admin", load)
}

// endsWithStdin has this process end with who has started it.
func endsWithStdin() {
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
}

// ask is one call with what the flags name, and says how it went; with --token, the token that it is given instead.
func ask(given flags) {
	with := &credentials{}
	if given["cert"] != "" {
		with.show = shown(perHandshake(given["cert"], given["key"]))
	}
	if path := given["cacert"]; path != "" {
		content, _ := os.ReadFile(path)
		with.roots, _ = pool(content)
	}
	if user := given["for"]; user != "" {
		with.headers = "X-Remote-User: " + user + "\r\n"
	}
	if token := given["bearer"]; token != "" {
		with.headers = "Authorization: Bearer " + token + "\r\n"
	}
	if given["token"] != "" {
		token, err := askForToken(with, given["to"], 24*time.Hour)
		if err != nil {
			fatal(err)
		}
		tell(token, "")
	}
	tell(call(with, given["to"], "/livez?as=client"))
}

func tell(kind, reason string) {
	fmt.Println(strings.TrimSpace(kind + " " + reason))
	os.Exit(0)
}

// own serves with a certificate that this process makes itself, in memory.
func own() *server {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	made, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		fatal(err)
	}
	encoded, _ := x509.MarshalPKCS8PrivateKey(key)
	pair, err := tls.X509KeyPair(
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: made}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded}),
	)
	if err != nil {
		fatal(err)
	}
	return &server{handshake: &tls.Config{Certificates: []tls.Certificate{pair}}}
}

func fatal(err error) {
	fmt.Println(err)
	os.Exit(1)
}
