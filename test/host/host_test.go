package host

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// What the check is for must be seen by it: a mount, a loop device, a file.
func TestLookSeesWhatIsLeft(t *testing.T) {
	dir := t.TempDir()
	before, err := Look(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	run := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %v: %v: %s", name, args, err, out)
		}
	}
	image := filepath.Join(dir, "image")
	if err := os.WriteFile(image, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", image).Output()
	if err != nil {
		t.Fatal(err)
	}
	device := string(out[:len(out)-1])
	t.Cleanup(func() { exec.Command("losetup", "-d", device).Run() })
	target := filepath.Join(dir, "mnt")
	if err := os.Mkdir(target, 0o700); err != nil {
		t.Fatal(err)
	}
	run("mount", "-t", "tmpfs", "none", target)
	t.Cleanup(func() { exec.Command("umount", target).Run() })

	after, err := Look(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	ours := after.Of(dir)
	for _, want := range []string{"loop " + filepath.Base(device) + " " + image + " offset 0", "mount " + target + " tmpfs none"} {
		if !slices.Contains(ours, want) {
			t.Errorf("not seen: %s; only %q", want, ours)
		}
		if !slices.Contains(Compare(before, after), "+ "+want) {
			t.Errorf("not in the difference: %s", want)
		}
		if !slices.Contains(Compare(after, before), "- "+want) {
			t.Errorf("not in the reverse difference: %s", want)
		}
	}
	if diff := Compare(after, after); len(diff) != 0 {
		t.Errorf("a state differs from itself: %q", diff)
	}
}

func TestCompareCounts(t *testing.T) {
	diff := Compare(State{"a", "b", "b"}, State{"b", "c", "c"})
	if want := []string{"+ c", "+ c", "- a", "- b"}; !slices.Equal(diff, want) {
		t.Errorf("got %q, want %q", diff, want)
	}
}
