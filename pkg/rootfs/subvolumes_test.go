package rootfs

import (
	"path/filepath"
	"testing"
)

// TestReadOnlySubvolume selects a snapshot that nothing can be written to.
func TestReadOnlySubvolume(t *testing.T) {
	t.Parallel()
	image := rootIn(t, "btrfs", "u", "@", "@fixed")
	dir := t.TempDir()
	run(t, "mount", "-o", "loop", image, dir)
	run(t, "btrfs", "property", "set", filepath.Join(dir, "@fixed"), "ro", "true")
	run(t, "btrfs", "subvolume", "set-default", filepath.Join(dir, "@fixed"))
	run(t, "umount", dir)
	gone(t, image)
	for subvolume, want := range map[string]bool{"@": false, "@fixed": true, "": true} {
		fsys, err := Select(t.Context(), image, Selection{Subvolume: subvolume})
		if err == nil {
			fsys, err = Tree(t.Context(), image, fsys)
		}
		if err != nil || fsys.ReadOnly != want {
			t.Errorf("%q: %+v, %v; want read-only %t", subvolume, fsys, err, want)
		}
	}
	noLoops(t, image)
}
