package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// keys are those of service-account tokens that an API server has read at its start: one signs, each of the others
// verifies (pkg/serviceaccount/jwt.go). A token is as Kubernetes has it, but for the form of an ECDSA signature.
type keys struct {
	signing crypto.Signer
	known   map[string]crypto.PublicKey // by what a token calls its key
}

func tokenKeys(public, private []byte) *keys {
	made := &keys{known: map[string]crypto.PublicKey{}}
	for block, rest := pem.Decode(public); block != nil; block, rest = pem.Decode(rest) {
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			fatal(err)
		}
		made.known[named(key)] = key
	}
	block, _ := pem.Decode(private)
	if block == nil {
		fatal(errors.New("no key for tokens"))
	}
	for _, parse := range []func([]byte) (any, error){
		x509.ParsePKCS8PrivateKey,
		func(der []byte) (any, error) { return x509.ParseECPrivateKey(der) },
		func(der []byte) (any, error) { return x509.ParsePKCS1PrivateKey(der) },
	} {
		if key, err := parse(block.Bytes); err == nil {
			made.signing, _ = key.(crypto.Signer)
		}
	}
	if made.signing == nil {
		fatal(errors.New("no key that can sign tokens"))
	}
	return made
}

// named is what a token calls its key (pkg/serviceaccount/jwt.go, keyIDFromPublicKey).
func named(key crypto.PublicKey) string {
	der, _ := x509.MarshalPKIXPublicKey(key)
	digest := sha256.Sum256(der)
	return base64.RawURLEncoding.EncodeToString(digest[:])
}

func (k *keys) make(user string, lasts time.Duration) string {
	said := text(map[string]any{"kid": named(k.signing.Public())}) + "." +
		text(map[string]any{"sub": user, "exp": time.Now().Add(lasts).Unix()})
	digest := sha256.Sum256([]byte(said))
	signature, err := k.signing.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		fatal(err)
	}
	return said + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// user is whose token it is; "" for one that is not accepted.
func (k *keys) user(token string) string {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return ""
	}
	var head struct{ Kid string }
	var body struct {
		Sub string
		Exp int64
	}
	read(parts[0], &head)
	read(parts[1], &body)
	signature, _ := base64.RawURLEncoding.DecodeString(parts[2])
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	verified := false
	switch key := k.known[head.Kid].(type) {
	case *ecdsa.PublicKey:
		verified = ecdsa.VerifyASN1(key, digest[:], signature)
	case *rsa.PublicKey:
		verified = rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], signature) == nil
	}
	if !verified || time.Now().Unix() > body.Exp {
		return ""
	}
	return body.Sub
}

// answers what is asked of tokens: TokenRequest of a service account, and TokenReview.
func (k *keys) answers(connection net.Conn, request *http.Request) bool {
	path := request.URL.Path
	parts := strings.Split(path, "/")
	review := strings.HasSuffix(path, "/tokenreviews")
	if request.Method != http.MethodPost || (!review && !strings.HasSuffix(path, "/token")) {
		return false
	}
	var asked map[string]any
	_ = json.NewDecoder(request.Body).Decode(&asked)
	if asked == nil {
		asked = map[string]any{}
	}
	spec, _ := asked["spec"].(map[string]any)
	if review {
		token, _ := spec["token"].(string)
		user := k.user(token)
		asked["status"] = map[string]any{"authenticated": user != "", "user": map[string]any{"username": user}}
	} else {
		seconds, _ := spec["expirationSeconds"].(float64)
		user := "system:serviceaccount:" + parts[4] + ":" + parts[6]
		asked["status"] = map[string]any{
			"token":               k.make(user, time.Duration(seconds*float64(time.Second))),
			"expirationTimestamp": time.Now().Add(time.Duration(seconds) * time.Second).UTC().Format(time.RFC3339),
		}
	}
	content, _ := json.Marshal(asked)
	fmt.Fprintf(connection, "HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"+
		"Connection: close\r\n\r\n%s", len(content), content)
	return true
}

func askForToken(with *credentials, host string, lasts time.Duration) (string, error) {
	body := fmt.Sprintf(`{"spec": {"expirationSeconds": %d}}`, int(lasts.Seconds()))
	found, err := exchange(with, host, fmt.Sprintf("POST /api/v1/namespaces/default/serviceaccounts/pod/token HTTP/1.1\r\nHost: %s\r\n"+
		"Content-Length: %d\r\nConnection: close\r\n\r\n%s", host, len(body), body))
	if found != nil {
		defer found.close()
	}
	if err != nil {
		return "", err
	}
	whole, _ := io.ReadAll(found.rest)
	_, content, _ := bytes.Cut(whole, []byte("\r\n\r\n"))
	var made struct{ Status struct{ Token string } }
	if err := json.Unmarshal(content, &made); err != nil || made.Status.Token == "" {
		return "", fmt.Errorf("no token: %s", strings.TrimSpace(found.status))
	}
	return made.Status.Token, nil
}

// pod asks every API server, with a token that the kubelet gets from its own and gives it, another one when 80 % of its
// time is over (pkg/kubelet/token/token_manager.go, requiresRefresh). Which CA it trusts is another matter.
func pod(given flags, to *record) {
	seconds, _ := strconv.ParseFloat(os.Getenv("STAND_IN_TOKEN"), 64)
	lasts := time.Duration(seconds * float64(time.Second))
	var lock sync.Mutex
	with := &credentials{}
	refresh := func() bool {
		kubelet, err := kubeconfig(given["kubeconfig"], func(path string) []byte { content, _ := os.ReadFile(path); return content })
		if err != nil {
			return false
		}
		token, err := askForToken(kubelet, hostOf(kubelet.server), lasts)
		if err != nil {
			return false
		}
		lock.Lock()
		defer lock.Unlock()
		with = &credentials{headers: "Authorization: Bearer " + token + "\r\n"}
		return true
	}
	for !refresh() {
		time.Sleep(100 * time.Millisecond)
	}
	go func() {
		for range time.Tick(lasts * 8 / 10) {
			for !refresh() {
				time.Sleep(100 * time.Millisecond)
			}
		}
	}()
	endsWithStdin()
	for _, each := range strings.Split(os.Getenv("STAND_IN_APISERVERS"), ",") {
		if name, host, found := strings.Cut(each, "="); found {
			to.again(name, "/livez?as=pod", func() (*credentials, string, error) {
				lock.Lock()
				defer lock.Unlock()
				return with, host, nil
			})
		}
	}
}

func text(of any) string {
	content, _ := json.Marshal(of)
	return base64.RawURLEncoding.EncodeToString(content)
}

func read(part string, into any) {
	content, _ := base64.RawURLEncoding.DecodeString(part)
	_ = json.Unmarshal(content, into)
}
