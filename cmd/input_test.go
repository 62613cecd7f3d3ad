package cmd

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestReadInput(t *testing.T) {
	dir := t.TempDir()
	file, fifo := filepath.Join(dir, "file"), filepath.Join(dir, "fifo")
	if err := os.WriteFile(file, []byte("four"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if data, mode, err := readInput(t.Context(), file, 4); err != nil || string(data) != "four" || mode != 0o640 {
		t.Errorf("%q, %v, %v", data, mode, err)
	}
	for _, path := range []string{file, dir, fifo, "/dev/zero"} {
		if _, _, err := readInput(t.Context(), path, 3); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
	}
	// What a shell's <(…) is: a pipe whose other end somebody holds.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	pipe := fmt.Sprintf("/dev/fd/%d", r.Fd())
	if _, err := w.WriteString("through"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(50*time.Millisecond, func() { cancel(&interruptedError{syscall.SIGINT}) })
	if _, _, err := readInput(ctx, pipe, 100); codeOf(inputError("--file", err)) != 130 {
		t.Errorf("an interrupt: %v", err)
	}
	if _, err := w.WriteString("again"); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if data, _, err := readInput(t.Context(), pipe, 100); err != nil || string(data) != "again" {
		t.Errorf("a pipe: %q, %v", data, err)
	}
}

func TestJSONFiles(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, name := range []string{"a.json", "odd=name.json", "source=x"} {
		if err := os.WriteFile(name, []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	files, err := jsonFiles(t.Context(), []string{"a.json", "odd=name.json", "source=x", "uuid=y,size=1", "typo=z", `{"id":"a"}`, ""})
	if err != nil || len(files) != 2 || string(files["a.json"]) != "a.json" || string(files["odd=name.json"]) != "odd=name.json" {
		t.Errorf("%q, %v", files, err)
	}
}
