package main

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// quick is a key exchange that costs little: it has nothing to do with certificates, and there are many handshakes.
var quick = []tls.CurveID{tls.CurveP256}

// stuck is the time after which a connection counts as stuck, as DEADLINE in tests/deadline.py: nothing that goes on
// takes as long, also on a host that stalls.
const stuck = 180 * time.Second

// call makes a new connection with these credentials and asks for `path`. How it went: "" for an answer of 200, else
// "network" where there was no connection or it broke, "trust" where a side refused the other, "answer" for the status.
func call(to *credentials, host, path string) (kind, reason string) {
	answer, err := exchange(to, host, "GET "+path+" HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\n"+to.headers+"\r\n")
	if answer != nil {
		defer answer.close()
	}
	if err != nil {
		return kindOf(err), err.Error()
	}
	if words := strings.Fields(answer.status); len(words) < 2 || words[1] != "200" {
		return "answer", strings.TrimSpace(answer.status)
	}
	return "", ""
}

// An answer is its first line, and what follows.
type answer struct {
	status string
	rest   *bufio.Reader
	close  func() error
}

func exchange(to *credentials, host, request string) (*answer, error) {
	raw, err := net.DialTimeout("tcp", host, stuck)
	if err != nil {
		return nil, err
	}
	_ = raw.SetDeadline(time.Now().Add(stuck))
	name, _, _ := net.SplitHostPort(host)
	connection := tls.Client(raw, &tls.Config{
		RootCAs: to.roots, ServerName: name, GetClientCertificate: to.show, InsecureSkipVerify: to.roots == nil,
		CurvePreferences: quick,
	})
	made := &answer{rest: bufio.NewReader(connection), close: raw.Close}
	if _, err = io.WriteString(connection, request); err == nil {
		made.status, err = made.rest.ReadString('\n')
	}
	return made, err
}

func kindOf(err error) string {
	var wait net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE),
		errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH),
		errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.As(err, &wait) && wait.Timeout():
		return "network"
	}
	return "trust"
}

// A record is a file to which this process adds lines of JSON, each in one write.
type record struct {
	file *os.File
	self string
	lock sync.Mutex
	good map[string]int
}

func recording() *record {
	made := &record{self: os.Getenv("STAND_IN_NAME"), good: map[string]int{}}
	if path := os.Getenv("STAND_IN_RECORD"); path != "" {
		file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
		if err != nil {
			fatal(err)
		}
		made.file = file
		go func() {
			for range time.Tick(100 * time.Millisecond) {
				made.flush()
			}
		}()
	}
	return made
}

func (r *record) add(fields map[string]any) {
	if r.file == nil {
		return
	}
	fields["at"] = float64(time.Now().UnixMicro()) / 1e6
	fields["by"] = r.self
	line, _ := json.Marshal(fields)
	_, _ = r.file.Write(append(line, '\n'))
}

func (r *record) flush() {
	r.lock.Lock()
	good := r.good
	r.good = map[string]int{}
	r.lock.Unlock()
	for to, count := range good {
		r.add(map[string]any{"to": to, "good": count})
	}
}

// again calls for as long as this process lives, at the interval, or as fast as it goes.
func (r *record) again(to, path string, load func() (*credentials, string, error)) {
	milliseconds, _ := strconv.ParseFloat(os.Getenv("STAND_IN_INTERVAL"), 64)
	if milliseconds == 0 {
		return
	}
	go func() {
		for range time.Tick(time.Duration(milliseconds * float64(time.Millisecond))) {
			began := float64(time.Now().UnixMicro()) / 1e6
			credentials, host, err := load()
			kind, reason := "file", ""
			if err != nil {
				reason = err.Error()
			} else {
				kind, reason = call(credentials, host, path)
			}
			if kind != "" {
				r.add(map[string]any{"to": to, "kind": kind, "reason": reason, "began": began})
				continue
			}
			r.lock.Lock()
			r.good[to]++
			r.lock.Unlock()
		}
	}()
}

// targets are the servers of a kind as the environment tells them: "node-1/kubelet=192.0.2.10:10250,…".
func (r *record) targets(variable, path string, with *credentials) {
	for _, each := range strings.Split(os.Getenv(variable), ",") {
		if name, host, found := strings.Cut(each, "="); found {
			r.again(name, path, func() (*credentials, string, error) { return with, host, nil })
		}
	}
}

func hostOf(address string) string {
	place, err := url.Parse(address)
	if err != nil {
		fatal(err)
	}
	return place.Host
}
