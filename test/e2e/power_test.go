//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lxcboot/lxcboot/test/powercut"
)

// TestPowerCuts works on a disk whose writes and flushes are logged, and looks at what the
// disk could have been if the power had gone at moments amid that: what was reported done
// by then is there, what was not is whole or undone, and all can be deleted.
func TestPowerCuts(t *testing.T) {
	t.Parallel()
	count, rounds := 16, 2
	if torture > 0 {
		count, rounds = max(1, torture/5), 6
	}
	tried := newTally(t, "power cuts")
	dir := filepath.Join(work, "power")
	for _, name := range []string{"", "disk", "recorder"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o711); err != nil {
			t.Fatal(err)
		}
	}
	at := filepath.Join(dir, "disk")
	prefix := ownName("power")
	w := &world{
		holder: &holder{work: dir, prefix: prefix, state: filepath.Join(at, "state"), runDir: filepath.Join(dir, "run")},
		t:      t, name: prefix, count: tried,
	}
	before, disk, log := filepath.Join(dir, "before.raw"), filepath.Join(dir, "disk.raw"), filepath.Join(dir, "writes.log")
	out, err := exec.Command("sh", "-ec", `truncate -s 2G "$1"; mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 "$1"; cp --sparse=always "$1" "$2"`, "sh", before, disk).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	recorder, err := powercut.Record(t.Context(), disk, log, filepath.Join(dir, "recorder"), at)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("work", func(t *testing.T) {
		w.t = t
		w.undo = append(w.undo, func() {
			if err := recorder.Close(); err != nil {
				t.Error(err)
			}
		})
		t.Cleanup(func() {
			left := w.cleanUp()
			tried.compared(len(left) > 0)
			for _, line := range left {
				t.Errorf("left behind: %s", line)
			}
		})
		w.must("image", "import", "IMAGE", "--name", "busybox")
		cmd := exec.CommandContext(t.Context(), "sh", "-s", filepath.Join(at, "said"), fmt.Sprint(rounds), "busybox", prefix)
		cmd.Env, cmd.Stdin = w.env(), strings.NewReader(powercut.Work)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	})
	if t.Failed() {
		return
	}
	writes, err := powercut.ReadLog(log)
	if err != nil {
		t.Fatal(err)
	}
	defer writes.Close()
	result, err := writes.Try(before, count, func(said []string) ([]string, error) {
		tried.fault()
		c, err := powercut.OpenAt(t.Context(), before, t.TempDir(), at, w.env())
		if err != nil {
			return nil, err
		}
		wrong := append(powercut.Check(c.Shell, said, false), powercut.Remove(c.Shell, "")...)
		tried.compared(len(wrong) > 0)
		return wrong, c.Close()
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, wrong := range result.Wrong {
		t.Error(wrong)
	}
	t.Logf("%s", result)
}
