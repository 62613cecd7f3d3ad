// Package setup tests the scripts beside it.
package setup

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// hurried are programs in place of the host's: a clock on which a second of timeout's is a
// millisecond, a dpkg that was killed amid its work, and an apt-get that fails while that
// is so, and takes two seconds to unpack.
var hurried = map[string]string{
	"timeout":    `n=$1; shift; [ "$n" = 0 ] && exec "$@"; exec /usr/bin/timeout "$(echo "$n" | awk '{print $1/1000}')" "$@"`,
	"dpkg-query": `exit 1`,
	"dpkg":       `[ "$*" = "--configure -a" ] && rm "$WORK/half-configured"`,
	"apt-get": `[ ! -e "$WORK/half-configured" ] || { echo 'dpkg was interrupted' >&2; exit 100; }
case $* in *--download-only*|*update*) exit ;; esac
: >"$WORK/half-configured"
sleep 2
rm "$WORK/half-configured"
echo "$*" >>"$WORK/installed"`,
}

// TestInstallEndsDpkg: dpkg has the time that it takes, and one that was killed is ended.
func TestInstallEndsDpkg(t *testing.T) {
	work := t.TempDir()
	for name, text := range hurried {
		if err := os.WriteFile(filepath.Join(work, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(work, "half-configured"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// The file that keeps services from starting is made in /usr/sbin.
	cmd := exec.Command("unshare", "--mount", "sh", "-c", "mount -t tmpfs none /usr/sbin && exec ./install")
	cmd.Env = append(os.Environ(), "WORK="+work, "TMPDIR="+work, "PATH="+work+":"+os.Getenv("PATH"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	installed, err := os.ReadFile(filepath.Join(work, "installed"))
	if err != nil || !strings.Contains(string(installed), "libvirt-daemon-driver-lxc") || strings.Count(string(installed), "\n") != 1 {
		t.Errorf("installed: %q, %v", installed, err)
	}
}

// TestReadmeBegins: what README's first commands are typed with is part of this tree, or
// README has said before how to install it: a stock Debian has no make.
func TestReadmeBegins(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	before, block, _ := strings.Cut(string(text), "\n```\n")
	block, _, _ = strings.Cut(block, "\n```\n")
	var told []string
	for _, m := range regexp.MustCompile(`apt-get install ([a-z0-9 +.-]+)`).FindAllStringSubmatch(before, -1) {
		told = append(told, strings.Fields(m[1])...)
	}
	commands := strings.Split(block, "\n")
	if len(commands) < 2 {
		t.Fatalf("README begins with %q", block)
	}
	for _, line := range commands {
		program, _, _ := strings.Cut(line, " ")
		if _, err := os.Stat(filepath.Join("../..", program)); err != nil && !slices.Contains(told, program) {
			t.Errorf("README does not say how to install the program of %q", line)
		}
	}
}
