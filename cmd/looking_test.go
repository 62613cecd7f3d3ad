package cmd

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestLooking holds that what only looks makes no directory of a mistyped one and says that it
// is not there, that a list is empty then, and that each of these commands exists.
func TestLooking(t *testing.T) {
	clean(t)
	dir := filepath.Join(t.TempDir(), "typo")
	for line, want := range map[string]int{
		"list": exitOK, "image list": exitOK, "volume list --sort size": exitOK, "snapshot list": exitOK, "show i": exitNotFound, "logs i": exitNotFound,
		"image show i": exitNotFound, "volume delete v": exitNotFound, "stop i": exitNotFound, "delete i": exitNotFound, "delete --force i": exitOK,
		"show --definition i": exitNotFound, "exec i -- true": exitNotFound, "image save i": exitNotFound, "wait i --for active": exitNotFound,
	} {
		code, out, stderr := run(t, append([]string{"--state-dir", dir}, strings.Fields(line)...)...)
		if code != want || code == exitNotFound && !strings.Contains(stderr, "there is no state directory "+dir) {
			t.Errorf("%s: exit code %d, %s", line, code, stderr)
		}
		if strings.Contains(line, "list") && (!strings.Contains(out, "| ID") || !strings.Contains(stderr, "warning: there is no state directory "+dir)) {
			t.Errorf("%s: %s%s", line, out, stderr)
		}
		if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("%s made the directory: %v", line, err)
		}
	}
	if code, _, _ := run(t, "__complete", "show", "--state-dir", dir, ""); code != exitOK {
		t.Errorf("completion: %d", code)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("completion made the directory: %v", err)
	}
	count := 0
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if looks(c) {
			count++
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(Root())
	if count != len(looking) {
		t.Errorf("%d of the %d commands exist", count, len(looking))
	}
}
