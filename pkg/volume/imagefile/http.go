package imagefile

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/wait"
)

// ErrFetch is wrapped when a URL cannot be read.
var ErrFetch = errors.New("cannot fetch")

// Limits of a server: to answer, and to go on; and how often in a row it is asked anew where
// it broke off, and nothing came.
var (
	answerLimit = time.Minute
	stallLimit  = time.Minute
	fetchTries  = 5
	fetchPause  = time.Second
)

// remote reads a URL, and goes on where the connection broke off.
type remote struct {
	ctx    context.Context
	client *http.Client
	url    string
	called string

	body   io.ReadCloser
	stop   context.CancelFunc
	mark   string // of the file as it was first: its ETag, or when it was changed
	at     int64
	size   int64 // 0: not known
	failed int   // tries in a row of which nothing came
}

// get begins to read a URL. Proxies are the environment's.
func (s Source) get(ctx context.Context, from string) (*remote, error) {
	client, err := s.client()
	if err != nil {
		return nil, err
	}
	r := &remote{ctx: ctx, client: client, url: from, called: Source{From: from}.Called()}
	return r, r.connect()
}

func (s Source) client() (*http.Client, error) {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.ResponseHeaderTimeout = answerLimit
	t.DisableCompression = true // what is packed is unpacked here
	if s.CACert != "" {
		pem, err := os.ReadFile(s.CACert)
		if err != nil {
			return nil, failure.Invalid("the authorities' certificates: %v", err)
		}
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, failure.Invalid("there is no certificate in %s", s.CACert)
		}
		t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return &http.Client{Transport: t}, nil
}

func (r *remote) fail(err error) error {
	return fmt.Errorf("%w %s: %w", ErrFetch, r.called, err)
}

// connect asks for what is left.
func (r *remote) connect() error {
	ctx, stop := context.WithCancel(r.ctx)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url, nil)
	if err != nil {
		stop()
		return failure.Invalid("the URL %s: %v", r.called, err)
	}
	req.Header.Set("User-Agent", "lxcboot")
	if r.at > 0 {
		req.Header.Set("Range", "bytes="+strconv.FormatInt(r.at, 10)+"-")
		if r.mark != "" {
			req.Header.Set("If-Range", r.mark)
		}
	}
	resp, err := r.client.Do(req)
	if err != nil {
		stop()
		return r.fail(err)
	}
	refuse := func(err error) error {
		resp.Body.Close()
		stop()
		return err
	}
	switch {
	case resp.StatusCode == http.StatusOK && r.at == 0:
		r.size = max(resp.ContentLength, 0)
		r.mark = resp.Header.Get("ETag")
		if r.mark == "" || strings.HasPrefix(r.mark, "W/") { // a weak one does not go with ranges
			r.mark = resp.Header.Get("Last-Modified")
		}
	case resp.StatusCode == http.StatusPartialContent && r.follows(resp.Header.Get("Content-Range")):
	case resp.StatusCode == http.StatusOK, resp.StatusCode == http.StatusPartialContent:
		return refuse(permanent{r.fail(errors.New("the connection broke off, and the server does not go on from there, or the file has changed; fetch it again"))})
	case resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests:
		return refuse(r.fail(fmt.Errorf("the server says %s", resp.Status)))
	default:
		return refuse(permanent{r.fail(fmt.Errorf("the server says %s", resp.Status))})
	}
	r.body, r.stop = resp.Body, stop
	return nil
}

// follows says whether a range is what is left of the file.
func (r *remote) follows(contentRange string) bool {
	return strings.HasPrefix(contentRange, fmt.Sprintf("bytes %d-", r.at)) && (r.size == 0 || strings.HasSuffix(contentRange, fmt.Sprint("/", r.size)))
}

// permanent is an error that another try would not mend.
type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

func (r *remote) Read(p []byte) (int, error) {
	for {
		var err error
		if r.body == nil {
			err = r.connect()
		}
		n := 0
		if err == nil {
			stalled := time.AfterFunc(stallLimit, r.stop)
			n, err = r.body.Read(p)
			if !stalled.Stop() && err != nil && r.ctx.Err() == nil {
				err = fmt.Errorf("nothing came for %s", stallLimit)
			}
			r.at += int64(n)
			if n > 0 {
				r.failed = 0
			}
			if errors.Is(err, io.EOF) && (r.size == 0 || r.at >= r.size) {
				return n, io.EOF
			}
			if err != nil {
				r.close()
			}
			if n > 0 || err == nil {
				return n, nil
			}
			err = r.fail(err)
		}
		var final permanent
		if r.failed++; errors.As(err, &final) || r.failed >= fetchTries || !temporary(err) {
			return 0, err
		}
		if err := wait.For(r.ctx, fetchPause); err != nil {
			return 0, err
		}
	}
}

// temporary says whether another try may mend an error.
func temporary(err error) bool {
	var unknown *net.DNSError
	var cert *tls.CertificateVerificationError
	return !errors.As(err, &cert) && !(errors.As(err, &unknown) && unknown.IsNotFound) && !errors.Is(err, context.Canceled)
}

func (r *remote) close() {
	if r.body != nil {
		r.body.Close()
		r.stop()
		r.body = nil
	}
}

// Close ends it.
func (r *remote) Close() error {
	r.close()
	r.client.CloseIdleConnections()
	return nil
}
