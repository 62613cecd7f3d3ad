package openstack

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/gophercloud/gophercloud/v2"

	"github.com/lxcboot/lxcboot/pkg/wait"
)

// retry does one thing with a service, again when it failed in a way that may
// pass, and translates the error that remains. From the second attempt on, op gets the
// last one's error: that request may have had its effect although no answer came, and an
// op that must not be done twice has to look first.
func retry[T any](ctx context.Context, s *Store, service, doing string, op func(last error) (T, error)) (T, error) {
	if err := cmp.Or(ctx.Err(), s.missing(service)); err != nil {
		var zero T
		return zero, s.translate(ctx, service, doing, err)
	}
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = 200*time.Millisecond, 5*time.Second
	var last error
	var first, end time.Time // patience is counted from the first failure
	v, err := backoff.Retry(ctx, func() (T, error) {
		v, err := op(last)
		if err == nil {
			return v, nil
		}
		if last == nil {
			first = time.Now()
			end = first.Add(s.o.Patience)
		}
		last = err
		after := retryAfter(err)
		switch {
		case ctx.Err() != nil || !passing(err) || time.Now().Add(after).After(end):
			return v, backoff.Permanent(err)
		case after > 0:
			return v, errors.Join(err, &backoff.RetryAfterError{Duration: after})
		}
		return v, err
	}, backoff.WithBackOff(pause), backoff.WithMaxElapsedTime(0), backoff.WithNotify(func(err error, wait time.Duration) {
		err = s.translate(ctx, service, doing, err)
		if time.Since(first)+wait > soon {
			s.waiting(fmt.Sprintf("%v; trying for %v", err, s.o.Patience))
		}
		s.o.Log.Info("trying again", "in", wait.Round(time.Millisecond), "error", err)
	}))
	return v, s.translate(ctx, service, doing, err)
}

// call is retry for what gives nothing but an error.
func call(ctx context.Context, s *Store, service, doing string, op func(last error) error) error {
	_, err := retry(ctx, s, service, doing, func(last error) (struct{}, error) { return struct{}{}, op(last) })
	return err
}

// create is retry for what makes something. Before it is asked for again, look
// lists what earlier requests have made. Where the service may still be working on
// a request, it is looked for during half of the store's patience.
func create[T any](ctx context.Context, s *Store, service, doing string, look func() ([]T, error), ask func() (T, error)) (T, error) {
	var since time.Time
	return retry(ctx, s, service, doing, func(last error) (T, error) {
		if last != nil {
			made, err := look()
			if len(made) > 0 {
				return made[0], nil
			}
			var none T
			if err != nil {
				return none, err
			}
			if since.IsZero() {
				since = time.Now()
			}
			if unanswered(last) && time.Since(since) < s.o.Patience/2 {
				return none, last
			}
		}
		since = time.Time{}
		return ask()
	})
}

// unanswered says that a request was sent and the wait for its answer given up,
// here or by a proxy on the way.
func unanswered(err error) bool {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return false
	}
	var network net.Error
	return errors.As(err, &network) && network.Timeout() || gophercloud.ResponseCodeIs(err, http.StatusGatewayTimeout)
}

// mayBeTaken says that a request that failed may have had its effect: it was sent,
// and not refused.
func mayBeTaken(err error) bool {
	if answer, ok := answerOf(err); ok {
		return answer.Actual >= 500
	}
	var op *net.OpError
	return err != nil && (!errors.As(err, &op) || op.Op != "dial")
}

// passing says whether a failure may be gone the next time: nobody answered, the
// answer broke off, or the service said that it is busy or broken at the moment.
func passing(err error) bool {
	if answer, ok := answerOf(err); ok {
		switch answer.Actual {
		case http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway,
			http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			return true
		}
		return false
	}
	var renewal *gophercloud.ErrUnableToReauthenticate
	if errors.As(err, &renewal) {
		return passing(renewal.ErrReauth)
	}
	var network net.Error
	var op *net.OpError
	var dns *net.DNSError
	var broken *json.SyntaxError
	switch {
	case errors.As(err, &dns):
		return dns.IsTemporary || dns.IsTimeout
	case isTLS(err):
		return false
	case errors.As(err, &op), errors.As(err, &network) && network.Timeout():
		return true
	}
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &broken) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// retryAfter is the time that the service asked us to wait, or 0.
func retryAfter(err error) time.Duration {
	answer, ok := answerOf(err)
	if !ok {
		return 0
	}
	text := answer.ResponseHeader.Get("Retry-After")
	if seconds, err := strconv.Atoi(text); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return time.Until(at)
	}
	return 0
}

// poll asks until the answer is there: often at first, then every few seconds.
func poll(ctx context.Context, done func() (bool, error)) error {
	return wait.Until(ctx, 100*time.Millisecond, 3*time.Second, done)
}
