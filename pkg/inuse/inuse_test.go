package inuse

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v: %s", name, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// use runs a script that uses a volume, says a word, and waits for one.
func use(t *testing.T, script, dir, dev string) (end func()) {
	t.Helper()
	cmd := exec.Command("sh", "-ec", script, "sh", dir, dev)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return func() {
		fmt.Fprintln(in)
		cmd.Wait()
	}
}

// TestCheck: each way of using a volume is seen, and named.
func TestCheck(t *testing.T) {
	// A place that others follow, whatever this host's root is.
	shared := t.TempDir()
	run(t, "mount", "-t", "tmpfs", "none", shared)
	t.Cleanup(func() { run(t, "umount", shared) })
	run(t, "mount", "--make-shared", shared)
	for name, c := range map[string]struct {
		fs     string // of the volume, which is mounted at $1; empty: none, and it is not mounted
		script string // uses it, says a word, and waits; $2 is its device
		want   string // a part of what is said, with DIR and DEV; empty: free
	}{
		"free":                         {"ext4", "", ""},
		"a working directory":          {"ext4", `cd "$1"; echo; read x`, `has its working directory at "DIR"`},
		"an open file":                 {"ext4", `exec 7>"$1/file"; echo; read x`, `has "DIR/file" open`},
		"an open file of a btrfs":      {"btrfs", `exec 7>"$1/file"; echo; read x`, `has "DIR/file" open`},
		"a program":                    {"ext4", `cp /bin/sleep "$1/prog"; "$1/prog" 1000 & echo; read x; kill $!; wait`, `runs "DIR/prog"`},
		"a file in memory":             {"ext4", `cp /bin/busybox "$1/prog"; exec perl -e 'use strict; open my $f, "<", "$ARGV[0]/prog"; my $p = syscall(9, 0, 4096, 1, 1, fileno $f, 0); close $f; $| = 1; print "\n"; <STDIN>' "$1"`, `has "DIR/prog" in its memory`},
		"the device":                   {"", `exec 7<"$2"; echo; read x`, `has "DEV" open`},
		"the device of a mounted one":  {"ext4", `exec 7<"$2"; echo; read x`, `has "DEV" open`},
		"another mount":                {"xfs", `mkdir "$1.too"; mount --bind "$1" "$1.too"; echo; read x; umount "$1.too"`, `it is mounted at DIR.too too`},
		"another mount of a btrfs":     {"btrfs", `mkdir "$1.too"; mount --bind "$1" "$1.too"; echo; read x; umount "$1.too"`, `it is mounted at DIR.too too`},
		"a mount of its own":           {"", `mke2fs -q "$2"; mkdir "$1.own"; mount "$2" "$1.own"; echo; read x; umount "$1.own"`, `it is mounted at DIR.own, as process`},
		"a namespace of its own":       {"ext4", `exec unshare --mount --propagation private sh -c 'echo; read x'`, `it is mounted at DIR, as process`},
		"a namespace that follows":     {"ext4", `exec unshare --mount --propagation slave sh -c 'echo; read x'`, ""},
		"a follower's follower":        {"ext4", `exec unshare --mount --propagation slave sh -ec 'mount --make-rshared /; unshare --mount --propagation slave sh -c "echo; read x"; true'`, ""},
		"one that follows, and bound":  {"ext4", `exec unshare --mount --propagation slave sh -ec 'mount --bind "$1" /mnt; echo; read x' sh "$1"`, `it is mounted at /mnt, as process`},
		"swap":                         {"", `mkswap -q "$2"; swapon "$2"; echo; read x; swapoff "$2"`, `DEV is used as swap`},
		"a file system that was left":  {"ext4", `exec 7>"$1/file"; umount -l "$1"; echo; read x`, `has `},
		"another namespace's leftover": {"ext4", `cd "$1"; umount -l "$1"; echo; read x; cd /`, `has its working directory at`},
	} {
		t.Run(name, func(t *testing.T) {
			dir, err := os.MkdirTemp(shared, "")
			file := filepath.Join(t.TempDir(), "image")
			if err := errors.Join(err, os.WriteFile(file, nil, 0o600), os.Truncate(file, 512<<20)); err != nil {
				t.Fatal(err)
			}
			if c.fs != "" {
				run(t, "mkfs."+c.fs, "-q", file)
			}
			dev := run(t, "losetup", "--find", "--show", file)
			t.Cleanup(func() { run(t, "losetup", "--detach", dev) })
			if c.fs != "" {
				run(t, "mount", dev, dir)
				t.Cleanup(func() {
					if gone := c.want == "" || strings.Contains(c.script, "umount -l"); !gone {
						run(t, "umount", dir)
					}
				})
			}
			v, err := Of(file)
			if err != nil {
				t.Fatal(err)
			}
			if c.script != "" {
				defer use(t, c.script, dir, dev)()
			}
			var own *Mount
			if c.fs != "" {
				own = v.Mounts().At(os.Getpid(), dir)
			}
			want := strings.NewReplacer("DIR", dir, "DEV", dev).Replace(c.want)
			err = v.Check(own)
			if (want == "") != (err == nil) || err != nil && (!errors.Is(err, ErrUsed) || !strings.Contains(err.Error(), want)) {
				t.Errorf("%v instead of %q", err, want)
			}
			if held := v.Carrier() != ""; held != (c.fs != "" || strings.Contains(c.script, "mount") || strings.Contains(c.script, "swapon")) {
				t.Errorf("held: %v", held)
			}
			// What was said to go with it does.
			if want == "" {
				run(t, "umount", dir)
				if err := v.Check(nil); err != nil {
					t.Errorf("after its end: %v", err)
				}
			}
		})
	}
	if _, err := Of(filepath.Join(t.TempDir(), "nothing")); err == nil {
		t.Error("what is not there has devices")
	}
}
