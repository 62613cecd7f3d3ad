//go:build faults

package rootfs

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The test binary runs itself, to be killed while it writes a seed and takes it back:
// in the mounted root and the directory that this variable names.
const seedEnv = "LXCBOOT_TEST_SEED"

// someOfAll are the paths that it writes, of those of furnish.
var someOfAll = []string{"/etc/hostname", "/etc/attributes", "/etc/dangling", "/var/run/pid", "/run/pid", "/a/b/c", "/a/.ssh/d"}

func TestMain(m *testing.M) {
	root, into, ok := strings.Cut(os.Getenv(seedEnv), "\n")
	if !ok {
		os.Exit(m.Run())
	}
	err := seedAll(root, into, someOfAll, ids)
	if err == nil {
		err = Restore(root, into)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// A process is killed at each point between two effects of Keep, WriteFile and
// Restore. Another Restore, which is killed at each of its points in turn, puts back
// what was there.
func TestKilledAtEveryPoint(t *testing.T) {
	path := format(t, "ext4")
	plain, _ := mountAt(t, path, MountOptions{})
	furnish(t, plain)
	before := whole(t, plain)
	root, _ := mountAtDevice(t, infoAt(t, plain).Source, MountOptions{IDMap: ids})
	seed := func(into string, env ...string) error {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(append(os.Environ(), seedEnv+"="+root+"\n"+into), env...)
		out, err := cmd.CombinedOutput()
		if err == nil || cmd.ProcessState.ExitCode() != -1 {
			return errors.Join(err, fmt.Errorf("not killed: %s", out))
		}
		return nil
	}
	log := filepath.Join(t.TempDir(), "points")
	if err := seed(filepath.Join(t.TempDir(), "kept"), "LXCBOOT_FAULT_LOG="+log); err == nil || !strings.HasPrefix(err.Error(), "not killed") {
		t.Fatal(err)
	}
	same(t, before, whole(t, plain))
	data, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	points := strings.Split(strings.TrimSpace(string(data)), "\n")
	for _, kind := range []string{"keep/content", "keep/stored", "keep/named", "write/directory", "write/whole", "restore/placed", "removed", "forget/record"} {
		if !strings.Contains(string(data), "rootfs/"+kind+"#1\n") {
			t.Errorf("%s was not reached: %q", kind, points)
		}
	}
	for _, point := range points {
		t.Run(strings.ReplaceAll(point, "/", "-"), func(t *testing.T) {
			into := filepath.Join(t.TempDir(), "kept")
			// The second process goes on from where the first was killed, and comes to
			// the same point again, or to an end.
			if err := seed(into, "LXCBOOT_FAULT="+point+"=kill"); err != nil {
				t.Fatal(err)
			}
			_ = seed(into, "LXCBOOT_FAULT="+point+"=kill")
			if err := Restore(root, into); err != nil {
				t.Fatal(err)
			}
			same(t, before, whole(t, plain))
			if _, err := os.Lstat(into); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("what was kept is still there: %v", err)
			}
		})
	}
}
