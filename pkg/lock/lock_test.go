package lock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A process of its own holds the lock at the path of this variable until its standard
// input ends.
const holdPath = "LOCK_TEST_HOLD"

func TestMain(m *testing.M) {
	if path := os.Getenv(holdPath); path != "" {
		f, err := File(context.Background(), path, os.O_CREATE)
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		defer f.Close()
		fmt.Println("held")
		os.Stdin.Read(make([]byte, 1))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestHeldByAnother(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	if held, err := Held(path); held || err != nil {
		t.Errorf("a lock that was never made: held %v, %v", held, err)
	}
	if _, err := File(t.Context(), path, 0); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without O_CREATE: %v", err)
	}
	holder := exec.Command(os.Args[0])
	holder.Env = append(os.Environ(), holdPath+"="+path)
	stdin, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close() // lets it end in any case
	stdout, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	defer holder.Wait()
	if said, err := readLine(stdout); err != nil || said != "held\n" {
		t.Fatalf("the holder says %q, %v", said, err)
	}

	if held, err := Held(path); !held || err != nil {
		t.Errorf("held %v, %v", held, err)
	}
	why := errors.New("no more patience")
	ended, end := context.WithCancelCause(t.Context())
	end(why)
	_, err = File(ended, path, 0)
	if !errors.Is(err, ErrHeld) || !errors.Is(err, why) {
		t.Errorf("a lock that is held: %v", err)
	}
	if err != nil && strings.Contains(err.Error(), ErrHeld.Error()) {
		t.Errorf("the kind's words are in the text: %v", err)
	}

	holder.Process.Kill()
	limited, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	f, err := File(limited, path, 0)
	if err != nil {
		t.Fatalf("after its holder's death: %v", err)
	}
	defer f.Close()
}

func readLine(f interface{ Read([]byte) (int, error) }) (string, error) {
	b := make([]byte, 100)
	n, err := f.Read(b)
	return string(b[:n]), err
}

// An attempt is made even when the time is up: what is free is had.
func TestFreeWhenTimeIsUp(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	f, err := File(ended, filepath.Join(t.TempDir(), "lock"), os.O_CREATE)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}

// Who waits while the file is removed, or replaced by another, gets no lock of what is
// not at the path any more.
func TestRemovedMeanwhile(t *testing.T) {
	for _, again := range []bool{false, true} {
		path := filepath.Join(t.TempDir(), "lock")
		first, err := File(t.Context(), path, os.O_CREATE)
		if err != nil {
			t.Fatal(err)
		}
		type result struct {
			f   *Lock
			err error
		}
		got := make(chan result)
		limited, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		go func() {
			f, err := File(limited, path, 0)
			got <- result{f, err}
		}()
		waiting(t, path)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		var now *os.File
		if again {
			if now, err = os.Create(path); err != nil {
				t.Fatal(err)
			}
			defer now.Close()
		}
		first.Close()
		r := <-got
		if !again {
			if !errors.Is(r.err, os.ErrNotExist) {
				t.Errorf("a lock whose file is gone: %v", r.err)
			}
			continue
		}
		if r.err != nil {
			t.Fatal(r.err)
		}
		defer r.f.Close()
		if same, err := isAt(r.f.File, path); !same || err != nil {
			t.Errorf("the lock had is not that of the file at the path (%v)", err)
		}
	}
}

// waiting waits until a second descriptor of this process is open at path.
func waiting(t *testing.T, path string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		n := 0
		fds, _ := filepath.Glob("/proc/self/fd/*")
		for _, fd := range fds {
			if to, _ := os.Readlink(fd); to == path {
				n++
			}
		}
		if n > 1 {
			return
		}
		if time.Now().After(end) {
			t.Fatal("nobody waits for the lock")
		}
	}
}

func TestSharedAndExclusive(t *testing.T) {
	dir := t.TempDir()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	one, err := Open(ended, dir, os.O_RDONLY, syscall.LOCK_SH)
	if err != nil {
		t.Fatal(err)
	}
	defer one.Close()
	two, err := Open(ended, dir, os.O_RDONLY, syscall.LOCK_SH)
	if err != nil {
		t.Fatalf("a second shared lock: %v", err)
	}
	two.Close()
	if held, err := Held(dir); held || err != nil {
		t.Errorf("a shared lock: held %v, %v", held, err)
	}
	if _, err := Open(ended, dir, os.O_RDONLY, syscall.LOCK_EX); !errors.Is(err, ErrHeld) {
		t.Errorf("an exclusive lock beside a shared one: %v", err)
	}
}

// A link is not followed: its target's lock would be another's.
func TestLink(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	if err := os.Symlink(os.DevNull, path); err != nil {
		t.Fatal(err)
	}
	if _, err := File(t.Context(), path, 0); !errors.Is(err, syscall.ELOOP) {
		t.Errorf("a link in place of the file: %v", err)
	}
}

// Who closes a lock has let it go, also when a process that is just being started, which
// has all of this one's open files until it executes its program, still has the file.
func TestBesideStarts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, how := range []int{syscall.LOCK_EX, syscall.LOCK_SH} {
		one, err := Open(ended, path, os.O_RDWR|os.O_CREATE, how)
		if err != nil {
			t.Fatal(err)
		}
		child, err := syscall.Dup(int(one.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		defer syscall.Close(child)
		if err := one.Close(); err != nil {
			t.Error(err)
		}
		two, err := File(ended, path, 0)
		if err != nil {
			t.Fatalf("a lock that was let go: %v", err)
		}
		two.Close()
	}
}
