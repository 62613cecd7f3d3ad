package inuse

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestWaitAlone: a filesystem that somebody's mount namespace still has is waited for, and
// its user named where it stays so; what only reads does no harm.
func TestWaitAlone(t *testing.T) {
	const inside = `exec unshare --mount --propagation private sh -ec '`
	for name, c := range map[string]struct {
		options []string // losetup's
		script  string   // has it, says a word, and waits
		want    string
	}{
		"nobody":         {},
		"only its nodes": {nil, `exec 7<"$2"; echo; read x`, ""},
		"a reader":       {[]string{"--read-only"}, inside + `mount -o ro,noload "$2" "$1"; echo; read x' sh "$1" "$2"`, ""},
		"for a moment":   {nil, inside + `mount "$2" "$1"; echo; sleep 1' sh "$1" "$2"`, ""},
		"for long":       {nil, inside + `mount "$2" "$1"; echo; read x' sh "$1" "$2"`, "it is mounted at DIR, as process"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, file := t.TempDir(), filepath.Join(t.TempDir(), "image")
			if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, 16<<20)); err != nil {
				t.Fatal(err)
			}
			run(t, "mkfs.ext4", "-q", file)
			dev := run(t, "losetup", append(c.options, "--find", "--show", file)...)
			t.Cleanup(func() { run(t, "losetup", "--detach", dev) })
			if c.script != "" {
				defer use(t, c.script, dir, dev)()
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			err := WaitAlone(ctx, file)
			want := strings.ReplaceAll(c.want, "DIR", dir)
			if (err == nil) != (want == "") || err != nil && (!errors.Is(err, ErrUsed) || !strings.Contains(err.Error(), want)) {
				t.Errorf("%v instead of %q", err, want)
			}
		})
	}
}
