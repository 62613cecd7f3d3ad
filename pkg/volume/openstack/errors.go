package openstack

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"unicode"

	"github.com/gophercloud/gophercloud/v2"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/tty"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// ErrTLS is the kind of a service that does not speak TLS, or that one side does not trust.
var ErrTLS = fmt.Errorf("TLS: %w", volume.ErrUnreachable)

// noToken is how Keystone says of a token, with the status of what is not there, that it is
// none or has expired.
var noToken = regexp.MustCompile(`(?i)(could not|failed to|not a recogni[sz]ed)\b.*\btoken\b`)

// isTLS says whether an error is about TLS.
func isTLS(err error) bool {
	var untrusted *tls.CertificateVerificationError
	var other tls.RecordHeaderError
	var op *net.OpError
	return errors.As(err, &untrusted) || errors.As(err, &other) || errors.Is(err, http.ErrSchemeMismatch) ||
		errors.As(err, &op) && op.Op == "remote error" // its alert
}

// Error is what a service of the cloud refused, or could not do.
type Error struct {
	Service string // keystone, cinder or glance
	Doing   string // "creating volume web1"
	Message string // the service's own words
	Status  int    // of HTTP; 0 when there was no answer
	Request string // the service's id of the request; may be empty
	Kind    error  // the sentinel of package volume that it wraps
}

func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s: %s", e.Service, e.Doing, e.Message)
	switch {
	case e.Status != 0 && e.Request != "":
		fmt.Fprintf(&b, " (HTTP %d, %s)", e.Status, e.Request)
	case e.Status != 0:
		fmt.Fprintf(&b, " (HTTP %d)", e.Status)
	}
	return b.String()
}

// Unwrap gives the kind of the failure.
func (e *Error) Unwrap() error { return e.Kind }

// translate makes an error of gophercloud or the network into one of ours. One
// that is ours already stays as it is.
func (s *Store) translate(ctx context.Context, service, doing string, err error) error {
	var ours *Error
	switch {
	case err == nil || errors.As(err, &ours) || isKind(err):
		return err
	case context.Cause(ctx) == errTimeout:
		return fmt.Errorf("%s: %s: no end after %v; a longer time can be given with --timeout: %w", service, doing, s.o.Timeout, context.DeadlineExceeded)
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %s: %w", service, doing, ctx.Err())
	}
	e := &Error{Service: service, Doing: doing}
	if answer, ok := answerOf(err); ok {
		e.Status = answer.Actual
		e.Message = s.clean(answerText(answer.Body))
		if e.Message == "" {
			e.Message = http.StatusText(answer.Actual)
		}
		e.Request = answer.ResponseHeader.Get("X-Openstack-Request-Id")
		e.Kind = kindOf(answer.Actual, e.Message)
		if answer.Actual == http.StatusNotAcceptable && service == cinderService.name {
			e.Message += "; " + microversion + " (Stein, 2019) is needed"
		}
		if answer.Actual == http.StatusNotFound && service == "keystone" {
			e.Kind = failure.ErrInvalid
			e.Message += "; check auth_url, which usually ends in /v3"
			if noToken.MatchString(e.Message) {
				e.Kind, e.Message = volume.ErrAuth, "the token is not valid, or not any more"
			}
		}
		if answer.Actual == http.StatusUnauthorized {
			e.Message += "; check the user, password and project in clouds.yaml or the OS_* variables"
		}
		return e
	}
	e.Kind, e.Message = volume.ErrUnreachable, s.clean(networkText(err))
	if isTLS(err) {
		e.Kind = ErrTLS
		return e
	}
	var request *url.Error
	if !errors.As(err, &request) && !passing(err) {
		// There was no request, or an answer that makes no sense.
		e.Kind = volume.ErrUnsupported
		if service == "keystone" {
			e.Kind = failure.ErrInvalid
		}
	}
	return e
}

// isKind says whether an error is already one of package volume's.
func isKind(err error) bool {
	for _, kind := range []error{
		volume.ErrNotFound, volume.ErrAmbiguous, volume.ErrInUse, volume.ErrConflict, failure.ErrInvalid,
		volume.ErrQuota, volume.ErrUnreachable, volume.ErrAuth, volume.ErrUnsupported,
	} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

// answerOf finds the service's answer in an error. Two of gophercloud's errors
// hold it without unwrapping to it.
func answerOf(err error) (gophercloud.ErrUnexpectedResponseCode, bool) {
	var renewal *gophercloud.ErrUnableToReauthenticate
	if errors.As(err, &renewal) {
		return answerOf(renewal.ErrReauth)
	}
	var answer gophercloud.ErrUnexpectedResponseCode
	if errors.As(err, &answer) {
		return answer, true
	}
	var pointer *gophercloud.ErrUnexpectedResponseCode
	if errors.As(err, &pointer) {
		return *pointer, true
	}
	return answer, false
}

// kindOf sorts an answer. Cinder and Glance tell an exhausted quota with 413, as
// they do a body that is too large; old ones say it with 403.
func kindOf(status int, text string) error {
	text = strings.ToLower(text)
	switch {
	case strings.Contains(text, "quota") || status == http.StatusRequestEntityTooLarge && strings.Contains(text, "exceed"):
		return volume.ErrQuota
	case status == http.StatusUnauthorized:
		return volume.ErrAuth
	case status == http.StatusForbidden && strings.Contains(text, "protected"):
		return volume.ErrConflict
	case status == http.StatusForbidden:
		return volume.ErrAuth
	case status == http.StatusNotFound || status == http.StatusGone:
		return volume.ErrNotFound
	case status == http.StatusConflict && strings.Contains(text, "in use"):
		return volume.ErrInUse
	case status == http.StatusConflict:
		return volume.ErrConflict
	case status == http.StatusNotAcceptable || status == http.StatusNotImplemented:
		return volume.ErrUnsupported
	case status == http.StatusTooManyRequests || status >= 500:
		return volume.ErrUnreachable
	}
	return failure.ErrInvalid
}

var tags = regexp.MustCompile(`(?s)<(title|head|style).*?</(title|head|style)>|<[^>]*>`)

// answerText finds the words meant for people in the body of an answer: JSON as
// each service has its own, or a page of HTML, for instance of a proxy.
func answerText(body []byte) string {
	var fields map[string]json.RawMessage
	text := string(body)
	if json.Unmarshal(body, &fields) == nil {
		text = ""
		var inner struct{ Message string }
		for _, raw := range fields { // {"badRequest": {"code": 400, "message": "…"}}
			if json.Unmarshal(raw, &inner) == nil && inner.Message != "" {
				text = inner.Message
			}
		}
		if text == "" { // {"code": …, "title": …, "message": "…"}
			_ = json.Unmarshal(body, &inner)
			text = inner.Message
		}
	}
	text = html.UnescapeString(tags.ReplaceAllString(text, " "))
	text = strings.Join(strings.FieldsFunc(text, notText), " ")
	if r := []rune(text); len(r) > 500 {
		text = string(r[:500]) + "…"
	}
	return strings.TrimRight(text, ". ")
}

// notText is what separates words: spaces, and what would do harm on a terminal.
func notText(r rune) bool { return unicode.IsSpace(r) || !tty.Printable(r) }

// networkText says why there was no answer, and from where, without the request's
// address, which holds more than anyone wants to read.
func networkText(err error) string {
	var renewal *gophercloud.ErrUnableToReauthenticate
	if errors.As(err, &renewal) {
		err = renewal.ErrReauth
	}
	var request *url.Error
	if !errors.As(err, &request) {
		return err.Error()
	}
	host := request.URL
	if u, parseErr := url.Parse(request.URL); parseErr == nil {
		host = u.Host
	}
	why := request.Err.Error()
	var op *net.OpError
	var dns *net.DNSError
	switch {
	case isTLS(err):
		return host + ": " + why
	case request.Timeout() || errors.Is(err, os.ErrDeadlineExceeded):
		why = "no answer in time"
	case errors.As(err, &dns):
		why = "its name can not be resolved: " + dns.Err
	case errors.As(err, &op):
		why = op.Err.Error()
		why = strings.TrimPrefix(why, op.Op+": ")
	}
	return fmt.Sprintf("%s does not answer: %s", host, strings.TrimPrefix(why, "connect: "))
}
