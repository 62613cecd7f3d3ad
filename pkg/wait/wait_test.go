package wait

import (
	"context"
	"errors"
	"testing"
	"time"
)

var errWhy = errors.New("why it ended")

func ended(t *testing.T) context.Context {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errWhy)
	return ctx
}

func TestFor(t *testing.T) {
	began := time.Now()
	if err := For(t.Context(), 20*time.Millisecond); err != nil || time.Since(began) < 20*time.Millisecond {
		t.Errorf("it took %v: %v", time.Since(began), err)
	}
	if err := For(ended(t), time.Hour); err != errWhy {
		t.Errorf("after the context's end: %v", err)
	}
}

func TestUntil(t *testing.T) {
	limited, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	n := 0
	err := Until(limited, time.Microsecond, time.Millisecond, func() (bool, error) {
		n++
		return n == 60, nil // were there no longest pause, the last would take hours
	})
	if err != nil || n != 60 {
		t.Errorf("%d calls, %v", n, err)
	}
	failed := errors.New("failed")
	n = 0
	err = Until(t.Context(), time.Microsecond, time.Millisecond, func() (bool, error) {
		n++
		return false, failed
	})
	if err != failed || n != 1 {
		t.Errorf("%d calls, %v", n, err)
	}
	n = 0
	err = Until(ended(t), time.Hour, time.Hour, func() (bool, error) {
		n++
		return false, nil
	})
	if err != errWhy || n != 1 {
		t.Errorf("%d calls, %v", n, err)
	}
	if err := Until(ended(t), time.Hour, time.Hour, func() (bool, error) { return true, nil }); err != nil {
		t.Errorf("done at once: %v", err)
	}
}

// The pauses grow.
func TestPauses(t *testing.T) {
	var at []time.Time
	began := time.Now()
	err := Until(t.Context(), 4*time.Millisecond, 16*time.Millisecond, func() (bool, error) {
		at = append(at, time.Now())
		return len(at) == 5, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	// 4, 6, 9, 13.5: never shorter, however loaded the machine is.
	if took := time.Since(began); took < 32*time.Millisecond {
		t.Errorf("five calls within %v", took)
	}
}
