package console

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestLogIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l, err := openLog(path, 200)
	must(t, err)
	var all bytes.Buffer
	for i := range 57 {
		line := fmt.Sprintf("line number %d\n", i)
		all.WriteString(line)
		n, err := l.Write([]byte(line))
		if n != len(line) || err != nil {
			t.Fatal(n, err)
		}
	}
	must(t, l.Close())
	l, err = openLog(path, 200) // goes on where it was
	must(t, err)
	l.Write([]byte("more\n"))
	all.WriteString("more\n")
	must(t, l.Close())
	total := int64(0)
	for _, p := range []string{path, path + ".1"} {
		st, err := os.Stat(p)
		must(t, err)
		if total += st.Size(); st.Size() > 100 || st.Mode() != 0o600 {
			t.Errorf("%s: %d bytes, %v", p, st.Size(), st.Mode())
		}
	}
	var got bytes.Buffer
	must(t, ReadLog(path, 0, &got))
	if int64(got.Len()) != total || total < 100 || !bytes.HasSuffix(all.Bytes(), got.Bytes()) {
		t.Errorf("%q of %d", got.String(), total)
	}
	got.Reset()
	must(t, ReadLog(path, 2, &got))
	if got.String() != "line number 56\nmore\n" {
		t.Errorf("%q", got.String())
	}
	must(t, ReadLog(path+"-none", 0, &got))
	must(t, os.Symlink("/etc/passwd", path+"-link"))
	if err := ReadLog(path+"-link", 0, &got); err == nil {
		t.Error("a link was followed")
	}
}

func TestLastLines(t *testing.T) {
	for _, tt := range []struct {
		in   string
		n    int
		want string
	}{
		{"a\nb\nc\n", 1, "c\n"}, {"a\nb\nc", 1, "c"}, {"a\nb\nc\n", 2, "b\nc\n"}, {"a\nb\n", 9, "a\nb\n"},
		{"", 3, ""}, {"\n", 1, "\n"}, {"\n\n\n", 2, "\n\n"}, {"a\nb\n", 0, "a\nb\n"}, {"a\nb\n", NoLines, ""},
	} {
		if got := string(lastLines([]byte(tt.in), tt.n)); got != tt.want {
			t.Errorf("lastLines(%q, %d) = %q", tt.in, tt.n, got)
		}
	}
}

func TestFollowLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	var out buffer
	done := make(chan error, 1)
	ended := make(chan struct{})
	go func() {
		done <- FollowLog(t.Context(), path, 0, &out, func() bool {
			select {
			case <-ended:
				return true
			default:
				return false
			}
		})
	}()
	l, err := openLog(path, 400)
	must(t, err)
	defer l.Close()
	var want strings.Builder
	for i := range 100 {
		line := fmt.Sprintf("line %d\n", i)
		want.WriteString(line)
		l.Write([]byte(line))
		time.Sleep(5 * time.Millisecond)
	}
	close(ended)
	select {
	case err := <-done:
		must(t, err)
	case <-time.After(testLimit):
		t.Fatal("it follows a log that has ended")
	}
	if out.String() != want.String() {
		t.Errorf("%q", out.String())
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := FollowLog(ctx, path, 1, io.Discard, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

// buffer is one that several goroutines may use.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
